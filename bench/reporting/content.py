"""What a report says, in its order: the answer first, then what supports it, then where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bench.ranking import StudyScores
from bench.reporting import limits as under_limits
from bench.reporting import provenance, time_tables, tuning_tables, verdict_tables
from bench.reporting.analysis import Analysis
from bench.reporting.document import Block, Bullets, Document, Paragraph, Picture, Section, Table
from bench.reporting.findings import at_edge, counted, findings, tuned_plans
from bench.reporting.limits import Limits
from bench.reporting.result_table import directions, result, tasks
from bench.search.plan import different
from bench.statistics.power import ALPHA
from bench.study import Study
from bench.summary import bounds_lines, claim_lines
from bench.verdict_text import sentences

Pictures = Mapping[str, Picture]


def document(
    analysis: Analysis, pictures: Iterable[Picture], others: Mapping[str, int], limits: Limits | None
) -> Document:
    """The report of a study with these figures; `others` as in `provenance.facts`."""
    study, found = analysis.study, {picture.stem: picture for picture in pictures}
    notes = findings(study, analysis.rows)
    failures = provenance.failures(study, analysis.rows)
    sections = [
        *([under_limits.section(analysis, limits)] if limits else []),
        Section("Result", (
            result(study), Bullets((*bounds_lines(study), *claim_lines(study, analysis.rows))), *_some(found, "final"),
        )),
        *([Section("Worth knowing", (Bullets(tuple(notes)),))] if notes else []),
        *_verdict(analysis, found),
        _training(analysis, found),
        *_tuning(analysis, found),
        *_target(analysis, found),
        _parts(study, found),
        *_costs(analysis, found),
        *([Section("Runs that are not ok", (failures,))] if failures else []),
        Section("Optimizers", (provenance.settings(analysis.rows),)),
        provenance.cost(study, analysis.rows),
        provenance.facts(study, others, analysis.rates.left_out if analysis.rates else 0),
        provenance.source(study),
        provenance.reproduction(study, analysis.rows),
    ]  # fmt: skip
    flagged = at_edge(study, analysis.rows)
    return Document(study.name, tuple(_answer(analysis)), tuple(_flagged(section, flagged) for section in sections))


def _flagged(section: Section, names: Sequence[str]) -> Section:
    """The section with a note under every table that shows one of `names`, whose tuned rate lies at an edge."""
    blocks = (_with_note(block, names) if isinstance(block, Table) else block for block in section.blocks)
    return replace(section, blocks=tuple(blocks))


def _with_note(table: Table, names: Sequence[str]) -> Table:
    shown = [name for name in names if any(cell.text == name for row in table.rows for cell in row)]
    if not shown or tuning_tables.EDGE_NOTE in table.note:
        return table
    return replace(table, note=f"{table.note} {_edge_text(shown)}".strip())


def _edge_text(names: Sequence[str]) -> str:
    return f"Tuned rate at an edge of the range searched, unresolved: {', '.join(names)}; a better one may lie beyond."


def _some(pictures: Pictures, *stems: str) -> list[Block]:
    return [pictures[stem] for stem in stems if stem in pictures]


def _answer(analysis: Analysis) -> list[Block]:
    p = analysis.study.protocol
    runs = counted(len(analysis.study.records), "run")
    scope = f"protocol {p.name}, {counted(len(analysis.rows), 'optimizer')}, {runs}{_tuned_by(analysis)}"
    edges = at_edge(analysis.study, analysis.rows)
    aside = [*([_edge_text(edges)] if edges else []), *_stopped(analysis), *_unranked(analysis)]
    if analysis.verdict is None:
        first = Paragraph(f"Nothing to compare ({scope}): {_nothing(analysis.scores)}.")
        return [first, *map(Paragraph, aside)]
    said = [*sentences(analysis.verdict, analysis.points), *aside]
    return [Paragraph(f"What these runs support ({scope}):"), Bullets(tuple(said))]


def _tuned_by(analysis: Analysis) -> str:
    """The searches whose settings the runs have: who searches more has an advantage. Nothing of default settings."""
    plans = tuned_plans(analysis.study, analysis.rows)
    if not plans:
        return ""
    found = list(plans.values())
    others = [row.optimizer for row in analysis.rows if row.optimizer not in plans]
    rest = f"; {', '.join(others)} as by default" if others else ""
    return f"; tuned by {different(found) or f'{found[0].request} each'}{rest}"


def _nothing(scores: StudyScores) -> str:
    """Why there is no verdict."""
    if np.isnan(scores.scores).all():
        return "no run is ok"
    if len(scores.names) < 2:
        return "a verdict needs two optimizers"
    return (
        "a verdict needs two seeds of which every optimizer has a run that ended by its own doing, ok, diverged or out "
        f"of memory; there {'is one' if scores.complete.sum() == 1 else 'is none'}"
    )


def _unranked(analysis: Analysis) -> list[str]:
    """Whom the verdict leaves out, because it would have no seed with them."""
    names = analysis.unranked
    return [f"Not ranked, without a run that is ok, diverged or out of memory: {', '.join(names)}."] if names else []


def _stopped(analysis: Analysis) -> list[str]:
    """Who a race stopped, and what that may have cost."""
    if not analysis.stopped:
        return []
    most = max(len(row.seeds) for row in analysis.rows)
    saved = sum(most - look for look in analysis.stopped.values())
    names = ", ".join(f"{name} after {look} seeds" for name, look in analysis.stopped.items())
    return [f"Stopped by the race and not ranked: {names}. {saved} runs were saved; the probability that the best "
            f"optimizer was ever stopped is at most {ALPHA:g}."]  # fmt: skip


def _verdict(analysis: Analysis, pictures: Pictures) -> list[Section]:
    if analysis.verdict is None:
        return []
    first = (verdict_tables.entries(analysis.verdict), *_some(pictures, "ranks", "pairs_matrix", "critical_difference"))
    informative = verdict_tables.informative(analysis.verdict)
    return [Section("Verdict", (*first, verdict_tables.pairs(analysis.verdict), Bullets(tuple(informative))))]


def _tuning(analysis: Analysis, pictures: Pictures) -> list[Section]:
    """What the searches found; nothing where there was none."""
    results = list(analysis.searches.values())
    if not results:
        return []
    metric, compared = analysis.metric, tuning_tables.tuned_table(analysis)
    grids = [compared, tuning_tables.budget_table(results, metric), tuning_tables.sensitivity_table(results, metric)]
    said = Paragraph(tuning_tables.search_line(results))
    return [Section("Tuning", (said, *_some(pictures, "sensitivity", "budget", "parallel"), *filter(None, grids)))]


def _training(analysis: Analysis, pictures: Pictures) -> Section:
    course = analysis.rank_course
    said = [Bullets(tuple(time_tables.course_lines(course)))] if course else []
    return Section("Over training", (*_some(pictures, "loss", "retrieval", "rank_course"), *said))


def _target(analysis: Analysis, pictures: Pictures) -> list[Section]:
    target = analysis.target
    if target is None:
        return []
    line = Paragraph(time_tables.target_line(analysis, target))
    grid = time_tables.target_table(analysis, target)
    return [Section("Time to a target", (line, grid, *_some(pictures, "targets", "profile")))]


def _parts(study: Study, pictures: Pictures) -> Section:
    """What the result is made of: pairs of modalities, or tasks."""
    if study.protocol.workload.kind == "continual":
        return Section("Task by task", (*_some(pictures, "forgetting", "tasks"), tasks(study)))
    return Section("By pair of modalities", (*_some(pictures, "pairs"), directions(study)))


def _costs(analysis: Analysis, pictures: Pictures) -> list[Section]:
    grid = time_tables.pareto_table(analysis)
    return [Section("Time, quality and memory", (*_some(pictures, "pareto"), grid))] if grid else []

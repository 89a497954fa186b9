"""What a report says, in its order: the answer first, then what supports it, then where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from bench.ranking import StudyScores
from bench.reporting import limits as under_limits
from bench.reporting import provenance, time_tables, tuning_tables, verdict_tables
from bench.reporting.analysis import Analysis
from bench.reporting.document import Block, Bullets, Document, Paragraph, Picture, Section
from bench.reporting.findings import counted, findings
from bench.reporting.limits import Limits
from bench.reporting.result_table import directions, result
from bench.statistics.power import ALPHA
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
        Section("By pair of modalities", (*_some(found, "pairs"), directions(study))),
        *_costs(analysis, found),
        *([Section("Runs that are not ok", (failures,))] if failures else []),
        Section("Optimizers", (provenance.settings(analysis.rows),)),
        provenance.cost(study, analysis.rows),
        provenance.facts(study, others, analysis.rates.left_out if analysis.rates else 0),
        provenance.source(study),
        provenance.reproduction(study, analysis.rows),
    ]  # fmt: skip
    return Document(study.name, tuple(_answer(analysis)), tuple(sections))


def _some(pictures: Pictures, *stems: str) -> list[Block]:
    return [pictures[stem] for stem in stems if stem in pictures]


def _answer(analysis: Analysis) -> list[Block]:
    p = analysis.study.protocol
    runs = counted(len(analysis.study.records), "run")
    scope = f"protocol {p.name}, {counted(len(analysis.rows), 'optimizer')}, {runs}"
    aside = [*_stopped(analysis), *_unranked(analysis)]
    if analysis.verdict is None:
        first = Paragraph(f"Nothing to compare ({scope}): {_nothing(analysis.scores)}.")
        return [first, *map(Paragraph, aside)]
    said = [*sentences(analysis.verdict, analysis.points), *aside]
    return [Paragraph(f"What these runs support ({scope}):"), Bullets(tuple(said))]


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
    compared = tuning_tables.tuned_table(analysis.rates, analysis.searches) if analysis.rates else None
    grids = [compared, tuning_tables.budget_table(results), tuning_tables.sensitivity_table(results)]
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


def _costs(analysis: Analysis, pictures: Pictures) -> list[Section]:
    grid = time_tables.pareto_table(analysis)
    return [Section("Time, quality and memory", (*_some(pictures, "pareto"), grid))] if grid else []

"""`bench ablate`: what a technique does to each optimizer and to their order, by hand-made and by real runs."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from scipy import stats

from bench.ablation import ablation
from bench.ablation_text import sentences
from bench.cli import cli
from bench.errors import UsageError
from bench.protocols import PROTOCOLS, changed
from bench.record import Fingerprints, Outcome, ProtocolName, RunRecord, Seconds
from bench.study import Study
from bench.techniques.selection import with_techniques

PLAIN = changed(PROTOCOLS["mini"], {"name": "hand"}, "test")
QUEUED = with_techniques(PLAIN, ["queue"])
HIGH, MIDDLE, LOW = [40.0, 41.0, 42.0, 43.0, 44.0], [30.0, 31.2, 31.9, 33.1, 34.0], [20.0, 20.5, 21.0, 21.5, 22.0]


def study(runs: dict, protocol=PLAIN) -> Study:
    """{optimizer: scores by seed}; None has diverged."""
    records = [
        RunRecord(
            run_id=f"{name}-s{seed}", protocol=ProtocolName(name=protocol.name, hash=protocol.hash), optimizer=name,
            configuration="c0", hyperparameters={"lr": 0.1}, seed=seed,
            outcome=Outcome.DIVERGED if score is None else Outcome.OK,
            metrics={} if score is None else {"avg_r1": score}, chance={"avg_r1": 0.2}, loss=2.0,
            fingerprints=Fingerprints(initial_weights=f"w{seed}", batch_order=f"o{seed}"),
            seconds=Seconds(training=6.0, total=7.0), finished="2020-01-01T00:00:00+00:00",
        )
        for name, scores in runs.items()
        for seed, score in enumerate(scores)
    ]  # fmt: skip
    return Study(Path("study"), protocol, tuple(records))


def plus(scores: list, points: float) -> list:
    """With some noise, so that differences have a spread."""
    return [score + points + noise for score, noise in zip(scores, (0.1, -0.1, 0.2, -0.2, 0.0), strict=True)]


def said(without: dict, with_it: dict) -> str:
    return " ".join(sentences(ablation("queue", study(without), study(with_it, QUEUED))))


def test_the_effect_is_the_paired_t_test_of_with_against_without():
    found = ablation("queue", study({"x": HIGH, "y": LOW}), study({"x": HIGH, "y": plus(LOW, 3)}, QUEUED))
    level = {entry.name: entry.level for entry in found.comparison.entries}["y"]
    assert level.difference == pytest.approx(3.0)
    assert level.p == pytest.approx(stats.ttest_rel(plus(LOW, 3), LOW).pvalue)
    assert level.better is True


def test_a_ranking_that_turns_round_is_said_first():
    text = said({"x": HIGH, "y": MIDDLE}, {"x": plus(LOW, 0), "y": plus(MIDDLE, 1)})
    assert text.startswith("Ranking: it changes. Significant both times: x above y without, below with it.")
    assert "Best set without: {x}; with: {y}." in text
    assert "Helps: y +1 [" in text and "Harms: x -21 [" in text
    assert "Gains more from it: y than x by 22 [" in text


def test_a_ranking_that_stays_is_said_with_how_many_pairs_tell():
    text = said({"x": HIGH, "y": MIDDLE, "z": LOW}, {"x": plus(HIGH, 1), "y": plus(MIDDLE, 1), "z": plus(LOW, 1)})
    assert text.startswith("Ranking: it does not change; all pairs are resolved both times, in the same order.")
    assert "No two optimizers gain differently from it, as far as seeds 0 to 4 tell." in text
    near = said({"x": HIGH, "y": plus(HIGH, 0), "z": LOW}, {"x": HIGH, "y": plus(HIGH, 0), "z": LOW})
    assert near.startswith("Ranking: no change found; 2 of 3 pairs are resolved both times, in the same order.")


def test_what_cannot_be_told_is_not_told():
    assert said({"x": HIGH, "y": plus(HIGH, 0)}, {"x": LOW, "y": plus(LOW, 0)}).startswith(
        "Ranking: cannot be told; of 1 pair none is resolved both times."
    )
    assert said({"x": HIGH}, {"x": LOW}).startswith("Ranking: cannot be told; that takes two optimizers")
    one = {"x": HIGH[:1], "y": LOW[:1]}
    assert "One shared seed is a description, nothing is tested: x." in said(one, one | {"x": LOW[:1]})


def test_a_run_that_diverges_with_it_counts_at_chance():
    found = ablation("queue", study({"x": HIGH, "y": LOW}), study({"x": [None] * 5, "y": LOW}, QUEUED))
    assert "Harms: x -41.8 [" in " ".join(sentences(found))
    (gain,) = found.gains_differ
    assert (gain.more, gain.less, gain.n) == ("y", "x", 5)
    assert gain.difference == pytest.approx(41.8)
    assert gain.ci95[0] < gain.difference < gain.ci95[1]


def test_gains_are_compared_by_the_paired_t_test_of_their_differences():
    with_it = {"x": plus(HIGH, 2), "y": plus(LOW, 2), "z": [s + 5 + 0.3 * i for i, s in enumerate(LOW)]}
    found = ablation("queue", study({"x": HIGH, "y": LOW, "z": LOW}), study(with_it, QUEUED))
    gains = {name: [b - a for a, b in zip(start, with_it[name], strict=True)]
             for name, start in (("x", HIGH), ("y", LOW), ("z", LOW))}  # fmt: skip
    p = stats.ttest_rel(gains["z"], gains["x"]).pvalue
    assert {(gain.more, gain.less) for gain in found.gains_differ} == {("z", "x"), ("z", "y")}
    assert found.gains_differ[0].p_holm == pytest.approx(3 * p) or found.gains_differ[1].p_holm == pytest.approx(2 * p)


def test_protocols_that_differ_in_more_than_techniques_are_not_paired():
    longer = with_techniques(changed(PLAIN, {"epochs": 40}, "test"), ["queue"])
    found = ablation("queue", study({"x": HIGH, "y": LOW}), study({"x": HIGH, "y": LOW}, longer))
    assert [change.what for change in found.comparison.differences] == ["epochs"]
    assert "nothing can be said" in " ".join(sentences(found))


def run(*arguments: str):
    return CliRunner().invoke(cli, ["ablate", *arguments], catch_exceptions=True)


@pytest.mark.slow
def test_whole_way_with_resume(tiny_toml: Path, tmp_path: Path):
    """Three techniques at once; the plain runs are those of `bench run`, and nothing is run twice."""
    common = ["-p", str(tiny_toml), "-o", "sgd,adamw", "--results", str(tmp_path), "--seeds", "2", "--workers", "2"]
    CliRunner().invoke(cli, ["run", *common])
    result = run(*common, "--technique", "accumulation.micro_batches=2", "--technique", "checkpointing")
    assert result.exit_code == 0, result.output
    assert "no technique: 4 runs, 0 to do" in result.stderr
    assert "with accumulation: 4 runs, 4 to do" in result.stderr
    for part in ("accumulation.micro_batches=2 — on tiny", "checkpointing — on tiny", "Ranking: ", "A without, B with"):
        assert part in " ".join(result.stdout.split())
    again = run(*common, "--technique", "accumulation.micro_batches=2+checkpointing", "--json")
    assert "with accumulation+checkpointing: 4 runs, 4 to do" in again.stderr
    (found,) = json.loads(again.stdout)
    assert found["technique"] == "accumulation.micro_batches=2+checkpointing"
    assert {entry["name"] for entry in found["comparison"]["entries"]} == {"sgd", "adamw"}
    assert all(entry["level"]["n"] == 2 for entry in found["comparison"]["entries"])
    assert "0 to do" in run(*common, "--technique", "checkpointing").stderr
    assert (tmp_path / "tiny" / "last_used").read_text().strip() == found["comparison"]["a"]["protocol_hash"]


def test_bad_input_is_one_line_before_anything_runs(tiny_toml: Path, tmp_path: Path):
    common = ["-p", str(tiny_toml), "--results", str(tmp_path)]
    with pytest.raises(UsageError, match=r"^--technique: none given; allowed are those of `bench list"):
        CliRunner().invoke(cli, ["ablate", *common], catch_exceptions=False)
    with pytest.raises(UsageError, match="unknown technique 'quee'"):
        CliRunner().invoke(cli, ["ablate", *common, "--technique", "quee"], catch_exceptions=False)
    assert not list(tmp_path.iterdir())


def test_a_technique_that_the_protocol_has_already_is_refused(tiny_toml: Path, tmp_path: Path):
    mine = tmp_path / "mine.toml"
    mine.write_text(tiny_toml.read_text() + "\n[techniques.queue]\nsize = 8\n")
    with pytest.raises(UsageError, match=r"^--technique queue: protocol 'mine' has it already"):
        CliRunner().invoke(cli, ["ablate", "-p", str(mine), "--results", str(tmp_path / "r"), "--technique", "queue"],
                           catch_exceptions=False)  # fmt: skip

"""`bench power`: differences that seeds find, seeds that differences take; by hand, against the parts, and refused."""

import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.cli import cli
from bench.plan import slug
from bench.protocols import PROTOCOLS, changed
from bench.record import Outcome, ProtocolName, RunRecord, Seconds
from bench.seed_planning import MOST_PAIRS, SEEDS, Question, plan_for_study, plan_for_table
from bench.seed_planning_text import sentences, view
from bench.statistics.power import minimal_effect, seeds_needed
from bench.store import Store
from bench.study import Study

PROTOCOL = changed(PROTOCOLS["mini"], {"name": "hand"}, "test")
# Differences to a: b 1, 2, 3, 2, 2 (sd 1/√2); c −1, 1, −1, 1, 0 (sd 1). b − c: −2, −1, −4, −1, −2 (sd √1.5).
TABLE = "seed,a,b,c\n0,10,9,11\n1,11,9,10\n2,12,9,13\n3,13,11,12\n4,14,12,14\n"
RUNS = {"a": [10.0, 11, 12, 13, 14], "b": [9.0, 9, 9, 11, 12], "c": [11.0, 10, 13, 12, 14]}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(TABLE)
    return path


def record(optimizer, seed, score, seconds=720.0):
    ok = score is not None
    return RunRecord(
        run_id=f"{slug(optimizer)}-s{seed}", protocol=ProtocolName(name="hand", hash=PROTOCOL.hash),
        optimizer=optimizer, configuration="c0", hyperparameters={}, seed=seed,
        outcome=Outcome.OK if ok else Outcome.DIVERGED, metrics={"avg_r1": score} if ok else {},
        chance={"avg_r1": 0.2}, seconds=Seconds(total=seconds), finished="2020-01-01T00:00:00+00:00",
    )  # fmt: skip


def study(runs, **options):
    records = [
        record(name, seed, score, **options) for name, scores in runs.items() for seed, score in enumerate(scores)
    ]
    return Study(Path("study"), PROTOCOL, tuple(records))


def test_differences_are_minimal_effects_times_the_spread(table):
    plan = plan_for_table(table, Question())
    # Spreads .7071, 1, 1.2247: median 1 (a, c), largest b and c.
    assert (plan.n_seeds, plan.median_sd, plan.worst_sd) == (5, pytest.approx(1), pytest.approx(np.sqrt(1.5)))
    assert set(plan.worst_pair) == {"b", "c"}
    assert list(plan.families) == [1, 2, 3]
    assert [row.n for row in plan.table] == list(SEEDS)
    for row in plan.table:
        assert row.median == pytest.approx({m: minimal_effect(row.n, m) for m in (1, 2, 3)})
        assert row.worst == pytest.approx({m: minimal_effect(row.n, m) * np.sqrt(1.5) for m in (1, 2, 3)})
        assert row.smallest_sign_flip_p == 2.0 ** (1 - row.n)
        assert row.hours is None
    # The specification's table at 5 seeds: 1.7 s_d for one comparison.
    assert round(plan.table[2].median[1], 1) == 1.7


def test_the_observed_number_of_seeds_is_marked_wherever_it_lies(tmp_path):
    rows = "\n".join(f"{seed},{x},{y}" for seed, (x, y) in enumerate(np.random.default_rng(0).normal(size=(12, 2))))
    (tmp_path / "twelve.csv").write_text(f"seed,a,b\n{rows}\n")
    plan = plan_for_table(tmp_path / "twelve.csv", Question())
    assert [row.n for row in plan.table] == [3, 4, 5, 6, 7, 8, 10, 12, 15, 20]
    assert plan.families == {1: "one comparison"}  # two entries have one pair
    assert "12*" in printed(plan)


def printed(plan):
    from rich.console import Console

    console = Console(width=80)
    with console.capture() as capture:
        console.print(view(plan))
    return capture.get()


def test_seeds_for_a_given_difference(table):
    plan = plan_for_table(table, Question(difference=2.0, power=0.9))
    # b is told from both: t = 2 √5 / .7071 = 6.3, p = .0032; t = 2 √5 / 1.2247 = 3.7, p = .022, by Holm .043.
    assert [(p.a, p.b, p.difference, p.for_observed) for p in plan.open_pairs] == [("a", "c", 0, None)]
    assert plan.open_pairs[0].for_asked == seeds_needed(2.0, 3, power=0.9)
    assert plan.seeds_for_difference == (seeds_needed(2.0, 3, power=0.9), seeds_needed(2 / np.sqrt(1.5), 3, power=0.9))


def test_seeds_for_the_observed_difference(tmp_path):
    (tmp_path / "two.csv").write_text("seed,a,b\n0,1.0,0\n1,-1.0,0\n2,0.9,0\n")
    (pair,) = plan_for_table(tmp_path / "two.csv", Question()).open_pairs
    # d = 1, −1, .9: mean .3, s = 1.1269
    assert (pair.difference, pair.sd) == (pytest.approx(0.3), pytest.approx(1.1269, abs=1e-4))
    assert pair.for_observed == seeds_needed(0.3 / pair.sd)
    assert pair.for_asked is None


def test_against_a_reference_there_are_fewer_comparisons_and_only_its_pairs(table):
    plan = plan_for_table(table, Question(reference="a", difference=1.0))
    assert list(plan.families) == [1, 2]
    assert plan.median_sd == pytest.approx((np.sqrt(0.5) + 1) / 2)
    assert plan.seeds_for_difference is not None and plan.seeds_for_difference[1] == seeds_needed(1.0, 2)
    assert "2 comparisons with a" in " ".join(sentences(plan))


def test_a_diverging_optimizer_counts_as_a_comparison_and_not_as_spread():
    plan = plan_for_study(study({**RUNS, "wild": [50.0, None, 50.0, 51.0, 50.0]}), Question())
    assert (plan.left_out, plan.comparisons) == (("wild",), 6)
    assert plan.median_sd == pytest.approx(1)
    assert "Left out of the spread, because runs diverged: wild." in sentences(plan)


def test_more_seeds_cost_the_hours_of_all_runs():
    # 3 optimizers × 720 s = .6 h a seed.
    plan = plan_for_study(study(RUNS), Question(difference=1.0))
    assert [row.hours for row in plan.table] == pytest.approx([0, 0, 0, 0.6, 1.2, 1.8, 3, 6, 9])
    needed = seeds_needed(1.0, 3)
    assert needed is not None and plan.seeds_for_difference is not None and plan.seeds_for_difference[0] == needed
    assert f"{needed} seeds at the median spread ({needed - 5} more, {(needed - 5) * 0.6:.1f} h of runs)" in " ".join(
        sentences(plan)
    )
    untimed = plan_for_study(study(RUNS, seconds=0.0), Question())
    assert {row.hours for row in untimed.table} == {None}
    assert "hours" not in printed(untimed)


def test_the_spread_itself_is_uncertain_and_that_is_said(table):
    plan = plan_for_table(table, Question())
    # √(4 / χ²): quantiles of 4 degrees of freedom 11.143 and .4844
    assert plan.sd_factor == pytest.approx((np.sqrt(4 / 11.1433), np.sqrt(4 / 0.484419)), rel=1e-4)
    text = " ".join(sentences(plan))
    assert "within a factor of 0.6 to 2.9 (95 %) from 5 seeds: take what follows as orders of magnitude." in text
    # .05 / 3 = .0167 needs 2^(1 − n) ≤ .0167: 7 seeds
    assert "its least p is 0.062; the fewest seeds that could are 7." in text


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(2, 8), st.integers(2, 5), st.integers(0, 100))
def test_more_seeds_find_smaller_differences(n, k, seed):
    scores = np.round(np.random.default_rng(seed).normal(size=(k, n)), 3)
    runs = {f"o{i}": row.tolist() for i, row in enumerate(scores)}
    plan = plan_for_study(study(runs), Question())
    for m in plan.families:
        found = [row.median[m] for row in plan.table]
        assert all(later < earlier for earlier, later in itertools.pairwise(found))
        assert all(row.median[m] <= row.worst[m] for row in plan.table)
    assert sentences(plan) and json.dumps(plan.to_json(), allow_nan=False)


def test_many_open_pairs_are_cut_and_counted(tmp_path):
    noise = np.random.default_rng(0).normal(size=(4, 20))
    text = "\n".join(f"{i},{','.join(map(str, row))}" for i, row in enumerate(noise))
    (tmp_path / "many.csv").write_text(f"seed,{','.join(f'o{i}' for i in range(20))}\n{text}\n")
    plan = plan_for_table(tmp_path / "many.csv", Question())
    assert (len(plan.open_pairs), plan.more_open_pairs) == (MOST_PAIRS, 190 - MOST_PAIRS)
    shown = printed(plan)
    assert f"{190 - 15} more pairs are open" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


@pytest.fixture
def results(tmp_path, monkeypatch, table):
    """results/five, results/one (one seed) and results/alone (one optimizer) in the working folder."""
    monkeypatch.chdir(tmp_path)
    runs = {"five": RUNS, "one": {name: [3.0] for name in "ab"}, "alone": {"a": RUNS["a"]},
            "lost": {"a": [None] * 3, "b": [1.0, None, 2.0]}}  # fmt: skip
    for name, of in runs.items():
        store = Store(tmp_path / "results" / name)
        store.write_protocol(PROTOCOL)
        for run in study(of).records:
            store.write_record(run)
    (tmp_path / "short.csv").write_text("seed,a,b\n0,1,2\n")


def test_the_command_takes_studies_and_tables(results):
    for source in ("five", "results/five", f"five@{PROTOCOL.hash}", "scores.csv"):
        shown = CliRunner().invoke(cli, ["power", source, "--difference", "1"], catch_exceptions=False)
        assert shown.exit_code == 0 and re.search(r"A difference of 1( point)? in all 3 pairs takes", shown.stdout)
        assert max(map(len, shown.stdout.splitlines())) <= 80
    printed = CliRunner().invoke(cli, ["power", "five", "--json"], catch_exceptions=False)
    found = json.loads(printed.stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert found.keys() >= {"n_seeds", "median_sd", "worst_sd", "table", "open_pairs", "seconds_per_seed"}
    assert found["table"][0]["median"].keys() == {"1", "2", "3"}
    assert (found["unit"], found["seconds_per_seed"]) == ("points", 2160)


REFUSED = {
    "one seed": (["one"], "study results/one: optimizers 2, seeds that all of them finished 1; a spread"),
    "one seed in a table": (["short.csv"], "1 of 1 rows are complete; a comparison needs 2 seeds or more"),
    "one optimizer": (["alone"], "optimizers 1, seeds that all of them finished 5; a spread of differences needs 2"),
    "all but one diverged": (["lost"], "study results/lost: no pair of entries without a diverged run"),
    "no such study": (["none"], "no finished runs in results/none"),
    "no such table": (["none.csv"], "none.csv: No such file or directory"),
    "reference": (["five", "--reference", "d"], "--reference: unknown optimizer 'd'"),
    "reference of a table": (["scores.csv", "--reference", "d"], "--reference: unknown entry 'd'"),
    "power": (["five", "--power", "0.04"], "--power 0.04: allowed are numbers above --alpha 0.05, below 1"),
    "no power": (["five", "--power", "nan"], "'nan' is no finite number"),
    "no difference": (["five", "--difference", "nan"], "'nan' is no finite number"),
    "difference": (["five", "--difference", "0"], "0.0 is not in the range x>0"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_exit_2(results, arguments, message, monkeypatch, capsys):
    from bench.cli import main

    monkeypatch.setattr(sys, "argv", ["bench", "power", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    output = capsys.readouterr()
    assert (stop.value.code, output.out, len(output.err.splitlines())) == (2, "", 1)
    assert message in output.err

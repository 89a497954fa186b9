"""`bench compare`: levels on shared seeds, outcomes and orders of hand-made studies; what is said, what is refused."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.cli import cli
from bench.comparison import compare_studies
from bench.comparison_text import sentences
from bench.errors import UsageError
from bench.plan import slug
from bench.protocols import PROTOCOLS, changed
from bench.record import Environment, Fingerprints, Outcome, ProtocolName, RunRecord, Seconds
from bench.seed_planning import Question, plan_for_study
from bench.store import Store
from bench.study import Study

PROTOCOL = changed(PROTOCOLS["mini"], {"name": "hand"}, "test")
LONGER = changed(PROTOCOL, {"epochs": 40, "workload": {"dataset_options": {"noise": 0.1}}}, "test")
PLACE = Environment(versions={"torch": "2.12.1"}, device="cpu", processor="x", cores=2, threads=1)
GOOD = [40.0, 41.0, 42.0, 43.0, 44.0]
FAIR = [30.0, 31.2, 31.9, 33.1, 34.0]
POOR = [20.0, 20.5, 21.0, 21.5, 22.0]


def record(optimizer, seed, score, protocol=PROTOCOL, **changes):
    """A run with this R@1; None has diverged, an outcome is that."""
    outcome = score if isinstance(score, Outcome) else Outcome.DIVERGED if score is None else Outcome.OK
    ok = outcome is Outcome.OK
    values = {
        "run_id": f"{slug(optimizer)}-s{seed}-{changes.get('configuration', '')}",
        "protocol": ProtocolName(name=protocol.name, hash=protocol.hash),
        "optimizer": optimizer, "configuration": "c0", "hyperparameters": {"lr": 0.1}, "seed": seed, "outcome": outcome,
        "metrics": {"avg_r1": score} if ok else {}, "chance": {"avg_r1": 0.2}, "loss": 2.0 if ok else None,
        "fingerprints": Fingerprints(initial_weights=f"w{seed}", batch_order=f"o{seed}"),
        "seconds": Seconds(training=6.0, total=7.0), "environment": PLACE, "finished": "2020-01-01T00:00:00+00:00",
    }  # fmt: skip
    return RunRecord(**(values | changes))


def study(runs, protocol=PROTOCOL, *, first=0, extra=(), **changes):
    """{optimizer: scores of the seeds from `first` on}, in memory."""
    records = [
        record(name, first + i, s, protocol, **changes) for name, scores in runs.items() for i, s in enumerate(scores)
    ]
    return Study(Path("study"), protocol, (*records, *extra))


def said(a, b, **options):
    return " ".join(sentences(compare_studies(a, b, **options)))


def by_name(found):
    return {entry.name: entry for entry in found.entries}


def test_a_difference_is_the_paired_t_test_of_the_shared_seeds():
    before, after = study({"x": GOOD, "y": FAIR, "z": POOR}), study({"x": GOOD, "y": FAIR[1:4], "z": POOR}, first=1)
    found = compare_studies(before, study({"x": GOOD, "y": [33.0, 34.0, 36.5, 36.0, 37.5]}))
    level = by_name(found)["y"].level
    # d = 3, 2.8, 4.6, 2.9, 3.5: mean 3.36, s = .7436 = √(2.212 / 4), half width t(4, .975) s / √5 = 2.7764 · .33257
    assert (level.n, level.difference) == (5, pytest.approx(3.36))
    assert level.ci95 == pytest.approx((3.36 - 0.92335, 3.36 + 0.92335), abs=1e-4)
    assert level.p == pytest.approx(stats.ttest_rel([33.0, 34.0, 36.5, 36.0, 37.5], FAIR).pvalue)
    assert (level.mean_a, level.mean_b, level.better) == (pytest.approx(32.04), pytest.approx(35.4), True)
    assert level.p_holm == level.p  # x is identical: that needs no test
    shifted = compare_studies(before, after)
    assert shifted.shared_seeds == (1, 2, 3, 4)
    assert by_name(shifted)["y"].level.n == 3
    assert by_name(shifted)["x"].level.difference == pytest.approx(-1.0)  # 40 … 43 on the seeds of 41 … 44


def test_holms_correction_is_over_the_optimizers():
    moved = {"x": [s + d for s, d in zip(GOOD, (1, 1.2, 0.8, 1.1, 0.9), strict=True)],
             "y": [s + d for s, d in zip(FAIR, (0.3, 0.1, 0.5, 0.2, 0.4), strict=True)],
             "z": [s + d for s, d in zip(POOR, (1, -1, 2, -2, 0.5), strict=True)]}  # fmt: skip
    levels = {
        n: e.level for n, e in by_name(compare_studies(study({"x": GOOD, "y": FAIR, "z": POOR}), study(moved))).items()
    }
    p = sorted(level.p for level in levels.values())
    assert [levels[n].p_holm for n in "xyz"] == pytest.approx([3 * p[0], 2 * p[1], p[2]])
    assert [levels[n].better for n in "xyz"] == [True, True, None]


def test_words_for_better_worse_open_equivalent_and_identical():
    before = study({"same": GOOD, "up": FAIR, "down": POOR, "close": GOOD, "open": FAIR})
    after = study({
        "same": GOOD, "up": [s + 3 + 0.1 * i for i, s in enumerate(FAIR)], "down": [s - 3 for s in POOR],
        "close": [s + 0.02 * (-1) ** i for i, s in enumerate(GOOD)], "open": [31.5, 30.2, 33.9, 32.1, 33.0],
    })  # fmt: skip
    text = said(before, after)
    assert "Better in B: up +3.2 [" in text
    assert "Worse in B: down -3 [" in text
    assert "Identical, outcome, metrics and loss of every shared run to the last bit: same." in text
    assert "Equivalent within 0.5, each tested on its own: close." in text
    assert re.search(r"No difference found: open; up to [\d.]+ remains possible\.", text)


def test_an_optimizer_that_never_finished_hides_no_order_of_the_others():
    before = study({"x": GOOD, "y": FAIR, "z": [Outcome.ERROR] * 5})
    found = compare_studies(before, study({"x": GOOD, "y": FAIR, "z": POOR}))
    assert found.orders is not None and (found.orders.best_a, found.orders.agreed) == (("x",), 1)
    assert [(entry.name, entry.rank_b) for entry in found.entries] == [("x", (1, 1)), ("y", (2, 2)), ("z", None)]
    assert "Orders of the 2 by mean" in " ".join(sentences(found))


def test_a_run_that_did_not_finish_is_not_identical_to_one_that_did():
    found = compare_studies(study({"x": GOOD, "y": FAIR}), study({"x": [*GOOD[:4], Outcome.ERROR], "y": FAIR}))
    assert [entry.level.identical for entry in found.entries] == [False, True]
    assert "Identical, outcome, metrics and loss of every shared run to the last bit: y." in " ".join(sentences(found))


@pytest.mark.parametrize(("metrics", "message"), [({"avg_r1": np.nan}, "its avg_r1 is nan"), ({}, "has no avg_r1")])
def test_an_ok_run_without_a_score_is_refused_and_not_left_out(metrics, message):
    broken = study({"x": GOOD, "y": FAIR}, extra=[record("z", 0, 1.0, metrics=metrics)])
    for call in (lambda: compare_studies(study({"x": GOOD}), broken), lambda: plan_for_study(broken, Question())):
        with pytest.raises(UsageError, match=f"study/runs/z-s0-/run.json: the run is ok and {message}; allowed is a"):
            call()


def test_runs_are_identical_only_with_equal_losses():
    found = by_name(compare_studies(study({"x": GOOD, "y": FAIR}), study({"x": GOOD, "y": FAIR}, loss=2.0 + 1e-15)))
    assert [entry.level.identical for entry in found.values()] == [False, False]
    assert found["x"].level.equivalent and found["x"].level.difference == 0


def test_a_run_that_diverges_scores_chance_and_is_said_first_of_all_outcomes():
    before = study({"x": GOOD, "y": [30.0, None, 32.0, 33.0, Outcome.ERROR]})
    after = study({"x": [40.0, None, 42.0, None, 44.0], "y": FAIR})
    found = compare_studies(before, after)
    level = by_name(found)["x"].level
    assert (level.difference, level.reliable, level.equivalent) == (
        pytest.approx((0.2 - 41 + 0.2 - 43) / 5),
        False,
        False,
    )
    assert (by_name(found)["x"].ok_b, by_name(found)["y"].level.n) == ((3, 5), 4)  # an error is missing, not chance
    text = " ".join(sentences(found))
    assert "Failing in B: x ok → diverged on seeds 1, 3." in text
    assert "Other outcomes: y diverged → ok on seed 1; y error → ok on seed 4." in text
    assert "Open, with an interval that diverged runs make unreliable: x, y." in text


def test_orders_agreement_and_pairs_that_reverse():
    # Means 42, 32, 21 and 21, 32, 42: every pair resolved and reversed, τ = −1.
    before = study({"x": GOOD, "y": FAIR, "z": POOR, "gone": GOOD})
    found = compare_studies(before, study({"x": POOR, "y": FAIR, "z": GOOD, "new": POOR}))
    orders = found.orders
    assert (orders.tau, orders.best_a, orders.best_b) == (-1, ("x",), ("z",))
    assert orders.weighted_tau == pytest.approx(stats.weightedtau([3, 2, 1], [1, 2, 3])[0])
    assert (set(orders.reversed), orders.agreed) == ({("x", "y"), ("x", "z"), ("y", "z")}, 0)
    assert (found.only_a, found.only_b) == (("gone",), ("new",))
    assert (by_name(found)["x"].rank_a, by_name(found)["x"].rank_b) == ((1, 1), (3, 3))
    text = " ".join(sentences(found))
    assert "Reversed, significant in both: x above y in A, below in B" in text
    assert "Only in A: gone. Only in B: new." in text


def test_pairs_resolved_in_one_study_alone_are_no_reversal():
    noise = [38.0, 45.0, 39.5, 46.0, 41.0]
    orders = compare_studies(study({"x": GOOD, "y": FAIR}), study({"x": noise, "y": GOOD})).orders
    assert (orders.only_a, orders.only_b, orders.reversed, orders.agreed) == ((("x", "y"),), (), (), 0)


def test_other_protocols_have_their_orders_compared_and_nothing_else():
    found = compare_studies(study({"x": GOOD, "y": FAIR}), study({"x": POOR, "y": GOOD}, LONGER))
    assert {c.what: (c.a, c.b) for c in found.differences} == {
        "epochs": (20, 40), "workload.dataset_options.noise": (0.04, 0.1),
    }  # fmt: skip
    assert all(entry.level is None and entry.time_ratio is None and not entry.outcomes for entry in found.entries)
    text = " ".join(sentences(found))
    assert "levels are not compared, only orders: epochs 20 → 40; workload.dataset_options.noise 0.04 → 0.1." in text
    assert "Reversed, significant in both: x above y in A, below in B." in text
    assert "etter in B" not in text and "dentical" not in text


def test_other_data_under_one_protocol_is_another_protocol():
    prints = {"initial_weights": "w", "batch_order": "o"}
    a, b = (study({"x": GOOD, "y": FAIR}, fingerprints=Fingerprints(**prints, data=data)) for data in ("d1", "d2"))
    found = compare_studies(a, b)
    assert [c.what for c in found.differences] == ["data"]
    assert not found.compares_levels
    assert sentences(found)[0].startswith("Data differ, so levels are not compared")


def test_without_a_shared_seed_levels_are_not_compared():
    found = compare_studies(study({"x": GOOD, "y": FAIR}), study({"x": GOOD, "y": FAIR}, first=5))
    assert (found.shared_seeds, found.compares_levels, found.orders.agreed) == ((), False, 1)
    assert "share 2 optimizers and no seed. Without a seed that both finished levels cannot" in " ".join(
        sentences(found)
    )


def test_one_shared_seed_tests_nothing():
    found = compare_studies(study({"x": GOOD, "y": FAIR}), study({"x": [41.0], "y": [29.0]}))
    assert [(e.level.difference, e.level.ci95, e.level.p_holm, e.level.better) for e in found.entries] == [
        (1, None, None, None), (-1, None, None, None),
    ]  # fmt: skip
    assert found.orders is None
    text = " ".join(sentences(found))
    assert "One shared seed is a description, nothing is tested: x, y." in text
    assert "Orders are not compared" in text


def test_what_changed_is_listed():
    before = study({"x": GOOD}, hyperparameters={"lr": 0.1, "momentum": 0.9}, environment=PLACE)
    after = study(
        {"x": GOOD}, hyperparameters={"lr": 0.2, "nesterov": True}, revision=2, source_digest="ab" * 32,
        environment=PLACE.model_copy(update={"versions": {"torch": "2.13.0"}, "git_commit": "f" * 40,
                                             "git_dirty": True}),
        fingerprints=Fingerprints(initial_weights="other", batch_order="o"), seconds=Seconds(training=9.0),
    )  # fmt: skip
    found = compare_studies(before, after)
    assert {c.what: (c.a, c.b) for c in found.entries[0].changes} == {
        "lr": (0.1, 0.2), "momentum": (0.9, "–"), "nesterov": ("–", True), "revision": (1, 2),
        "source": ("–", "abababababab"),
    }  # fmt: skip
    assert {c.what: c.b for c in found.environment} == {"torch": "2.13.0", "commit": "ffffffffffff with changes"}
    assert (found.other_blocks, found.entries[0].time_ratio) == ((0, 1, 2, 3, 4), 1.5)
    text = " ".join(sentences(found))
    assert "Changed settings: x lr 0.1 → 0.2, momentum 0.9 → –, nesterov – → True, revision 1 → 2" in text
    assert "Initial weights or batches are not the same on seeds 0 to 4: pairing gains little there." in text


def test_several_configurations_are_matched_by_configuration():
    low = [record("x", seed, s, configuration="aaaa1111", hyperparameters={"lr": 0.01}) for seed, s in enumerate(FAIR)]
    found = compare_studies(
        study({"x": GOOD}, configuration="bbbb2222"), study({"x": GOOD}, configuration="bbbb2222", extra=low)
    )
    assert [(entry.name, entry.level.identical) for entry in found.entries] == [("x#bbbb", True)]
    assert found.only_b == ("x#aaaa",)


def test_a_rank_metric_is_better_when_lower():
    protocol = changed(PROTOCOL, {"primary_metric": "i2t_mean_rank"}, "test")
    ranks = {"x": [2.0, 2.1, 2.2], "y": [5.0, 5.2, 5.1]}

    def with_ranks(table):
        runs = [
            record(n, i, s, protocol, metrics={"i2t_mean_rank": s}) for n, of in table.items() for i, s in enumerate(of)
        ]
        return Study(Path("study"), protocol, tuple(runs))

    found = compare_studies(with_ranks(ranks), with_ranks({"x": [3.0, 3.11, 3.2], "y": ranks["y"]}))
    assert (by_name(found)["x"].level.difference > 0, by_name(found)["x"].level.better) == (True, False)
    assert (found.orders.best_a, found.orders.tau, found.margin) == (("x",), 1, None)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 20) | st.none(), min_size=3, max_size=3), min_size=4, max_size=4))
def test_turning_the_studies_round_turns_the_differences_round(table):
    # Rows 0 and 1: x and y in A; 2 and 3: in B. Scores in half points, None diverged.
    rows = [[None if s is None else s / 2 for s in row] for row in table]
    a, b = study({"x": rows[0], "y": rows[1]}), study({"x": rows[2], "y": rows[3]})
    there, back = compare_studies(a, b), compare_studies(b, a)
    for name, entry in by_name(there).items():
        turned = by_name(back)[name].level
        assert entry.level.difference == pytest.approx(-turned.difference)
        assert entry.level.p_holm == (None if turned.p_holm is None else pytest.approx(turned.p_holm))
        assert entry.level.better == (None if turned.better is None else not turned.better)
        assert entry.level.p is None or 0 <= entry.level.p <= (entry.level.p_holm or 0) <= 1
    if there.orders:
        assert set(there.orders.reversed) == {pair[::-1] for pair in back.orders.reversed}
        assert (there.orders.only_a, there.orders.only_b) == (back.orders.only_b, back.orders.only_a)
    assert sentences(there) and json.dumps(there.to_json(), allow_nan=False)


def test_unchanged_optimizers_on_fresh_noise_are_seldom_told_apart():
    rng, told = np.random.default_rng(0), 0
    for _ in range(60):
        a, b = (study({n: (40 + rng.normal(size=5)).tolist() for n in "wxyz"}) for _ in range(2))
        told += any(entry.level.better is not None for entry in compare_studies(a, b).entries)
    assert told <= 8  # 3 expected; beyond 8 with probability .003


@pytest.mark.parametrize(("metric", "floor"), [("i2t_median_rank", 1.0), ("i2t_mean_rank", 1 / 500)])
def test_equal_steps_of_a_rank_are_no_certainty(metric, floor):
    """One rank more on every seed has no variance; the floor g²/6 keeps t finite: √3 · √6 for a step."""
    protocol = changed(PROTOCOL, {"primary_metric": metric}, "test")

    def ranks(step):
        runs = [record("x", i, r + step, protocol, metrics={metric: r + step}) for i, r in enumerate((2.0, 3.0, 2.0))]
        return Study(Path("study"), protocol, tuple(runs))

    level = by_name(compare_studies(ranks(0.0), ranks(floor)))["x"].level
    assert level.p == pytest.approx(2 * stats.t.sf(np.sqrt(18), 2), rel=1e-6)
    assert level.better is None


def test_studies_without_a_common_optimizer_are_refused():
    with pytest.raises(UsageError, match=r"study and study share no optimizer: A has x; B has y"):
        compare_studies(study({"x": GOOD}), study({"y": GOOD}))


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two studies on disk, `one` also with a run of another protocol, in the working folder's results/."""
    monkeypatch.chdir(tmp_path)
    for name, scores in (("one", GOOD), ("two", [s + 1 + 0.1 * i for i, s in enumerate(GOOD)])):
        store = Store(tmp_path / "results" / name)
        store.write_protocol(PROTOCOL)
        for run in study({"x": scores, "a_rather_long_optimizer_name": FAIR}).records:
            store.write_record(run)
    other = Store(tmp_path / "results" / "one")
    other.write_protocol(LONGER)
    other.write_record(record("x", 0, 12.0, LONGER, run_id="old", finished="2019-01-01T00:00:00+00:00"))
    return tmp_path


def test_the_command_takes_names_folders_and_hashes(results):
    shown = CliRunner().invoke(cli, ["compare", "one", str(results / "results" / "two")], catch_exceptions=False)
    assert shown.exit_code == 0 and "Better in B: x +1.2 [1, 1.4]" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    hashed = CliRunner().invoke(cli, ["compare", f"one@{LONGER.hash}", "two", "--json"], catch_exceptions=False)
    found = json.loads(hashed.stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert found["a"]["protocol_hash"] == LONGER.hash
    assert {change["what"] for change in found["differences"]} == {"epochs", "workload.dataset_options.noise"}
    assert found["only_b"] == ["a_rather_long_optimizer_name"]
    assert {"entries", "orders", "environment", "shared_seeds", "other_blocks"} <= found.keys()


def test_an_unreadable_record_is_left_out_with_a_warning(results):
    next((results / "results" / "two" / "runs").glob("x-s0*/run.json")).write_text('{"schema_version": 1, "run')
    shown = CliRunner().invoke(cli, ["compare", "one", "two"], catch_exceptions=False)
    assert shown.exit_code == 0 and "1 unreadable, left out" in shown.stderr
    assert "two" in shown.stderr


REFUSED = {
    "no such study": (["one", "three"], "no finished runs in results/three"),
    "no such folder": (["one", "some/where"], "no finished runs in some/where"),
    "no name": (["one", "?"], "study '?': allowed are letters"),
    "no such protocol": (["one", "two@0123456789ab"], "no runs of protocol '0123456789ab'; there are"),
    "one study": (["one"], "Missing argument 'B'"),
    "alpha": (["one", "two", "--alpha", "1"], "1.0 is not in the range 0<x<1"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_exit_2(results, arguments, message, monkeypatch, capsys):
    from bench.cli import main

    monkeypatch.setattr(sys, "argv", ["bench", "compare", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    output = capsys.readouterr()
    assert (stop.value.code, output.out, len(output.err.splitlines())) == (2, "", 1)
    assert message in output.err

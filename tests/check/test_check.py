"""What a check says of two snapshots: every gate's verdict, and the notes beside them."""

import dataclasses
import json

import pytest

from bench.check.check import Options, check
from bench.check.result import Status
from bench.errors import UsageError
from bench.protocols import changed
from bench.record import Fingerprints, Outcome


def moved(scores, name, by):
    """`scores` with one optimizer's moved by a number, or by one number a seed."""
    steps = by if isinstance(by, tuple) else (by,) * 5
    row = {seed: score + step for (seed, score), step in zip(scores[name].items(), steps, strict=True)}
    return {**scores, name: row}


def statuses(result):
    return {gate.name: str(gate.status) for gate in result.gates}


def replaced(snap, changes, **where):
    """`snap` with `changes` in the runs whose fields are `where`."""
    runs = tuple(run.model_copy(update=changes) if all(getattr(run, k) == v for k, v in where.items()) else run
                 for run in snap.runs)  # fmt: skip
    return snap.model_copy(update={"runs": runs})


def test_the_same_runs_pass_every_gate(hand):
    result = check(hand.snapshot(), hand.snapshot())
    assert result.verdict is Status.PASS
    assert set(statuses(result).values()) == {"pass"}
    assert [gate.name for gate in result.gates] == ["compatibility", "identity", "health", "level", "order", "time"]
    assert result.gate("identity").text == "all 20 runs score the same"


def test_alpha_is_split_over_the_gates(hand):
    result = check(hand.snapshot(), hand.snapshot(), Options(alpha=0.05))
    thresholds = {gate.name: gate.alpha for gate in result.gates if gate.alpha}
    assert thresholds == pytest.approx({"health": 0.01, "level": 0.02, "order": 0.02, "time": 0.01})
    result = check(hand.snapshot(), hand.snapshot(), Options(time_fails=True))
    assert sum(gate.alpha or 0 for gate in result.gates) == pytest.approx(0.01)


def test_a_lower_level_fails(hand):
    result = check(hand.snapshot(), hand.snapshot(moved(hand.scores(), "good", (-3.0, -3.1, -2.9, -3.0, -3.2))))
    assert result.verdict is Status.FAIL
    assert statuses(result)["level"] == "fail" and statuses(result)["order"] == "pass"
    assert result.gate("level").text.startswith("good lost 3.04 points, p = ")
    (case,) = (case for case in result.gate("level").cases if case.name == "good")
    assert case.figures["difference"] == pytest.approx(-3.04)
    assert (case.figures["low"] or 0.0) < -3.04 < (case.figures["high"] or 0.0) < 0


def test_a_higher_level_passes(hand):
    result = check(hand.snapshot(), hand.snapshot(moved(hand.scores(), "good", 3.0)))
    assert result.verdict is Status.PASS
    assert statuses(result)["identity"] == "note"


def test_a_loss_within_the_margin_passes(hand):
    after = hand.snapshot(moved(hand.scores(), "good", -0.4))
    assert check(hand.snapshot(), after).verdict is Status.FAIL
    assert check(hand.snapshot(), after, Options(margin=0.6)).verdict is Status.PASS


def test_a_tolerance_makes_runs_the_same(hand):
    after = hand.snapshot(moved(hand.scores(), "good", -0.4))
    result = check(hand.snapshot(), after, Options(tolerance=0.41))
    assert (result.verdict, statuses(result)["identity"]) == (Status.PASS, "pass")


def test_for_a_rank_lower_is_better(hand):
    protocol = changed(hand.protocol, {"primary_metric": "i2t_mean_rank"}, "test")
    scores = {name: dict(enumerate(values)) for name, values in
              {"a": (2.0, 2.1, 1.9, 2.0, 2.2), "b": (5.0, 5.2, 5.1, 4.9, 5.3)}.items()}  # fmt: skip
    before = hand.snapshot(scores, protocol=protocol)
    worse = check(before, hand.snapshot(moved(scores, "a", (6.0, 6.1, 6.2, 5.9, 6.0)), protocol=protocol))
    assert (statuses(worse)["level"], statuses(worse)["order"]) == ("fail", "fail")
    (case,) = (case for case in worse.gate("level").cases if case.name == "a")
    low, difference, high = (case.figures[key] or 0.0 for key in ("low", "difference", "high"))
    assert 0 < low < difference < high
    assert check(before, hand.snapshot(moved(scores, "a", -0.5), protocol=protocol)).verdict is Status.PASS


def test_a_swap_inside_an_unresolved_group_does_not_alarm(hand):
    scores = hand.scores()
    result = check(hand.snapshot(), hand.snapshot(scores | {"better": scores["good"], "good": scores["better"]}))
    assert result.verdict is Status.PASS
    assert {case.name for case in result.gate("order").cases} == {
        "better > middle", "better > poor", "good > middle", "good > poor", "middle > poor"}  # fmt: skip


def test_an_optimizer_without_a_score_hides_no_order_of_the_others(hand):
    broken = {"outcome": Outcome.ERROR, "reason": "RuntimeError", "metrics": {}, "evaluations": ()}
    before = replaced(hand.snapshot(), broken, optimizer="better")
    after = hand.snapshot(moved(hand.scores(), "middle", (-20.0, -20.3, -19.8, -20.1, -20.0)))
    result = check(before, replaced(after, broken, optimizer="better"))
    assert {case.name for case in result.gate("order").cases} == {"good > middle", "good > poor", "middle > poor"}
    assert "middle > poor no longer" in result.gate("order").text


def test_a_turned_pair_fails_the_order(hand):
    result = check(hand.snapshot(), hand.snapshot(moved(hand.scores(), "middle", (-20.0, -20.3, -19.8, -20.1, -20.0))))
    (case,) = (case for case in result.gate("order").cases if case.status is Status.FAIL)
    assert case.name == "middle > poor"
    assert "middle > poor no longer" in result.gate("order").text


def test_a_noisy_loss_is_inconclusive(hand):
    result = check(hand.snapshot(), hand.snapshot(moved(hand.scores(), "good", (-4.0, 3.0, -5.0, 1.0, -2.0))))
    assert result.verdict is Status.INCONCLUSIVE
    assert "5 seeds find a loss of" in result.gate("level").text


def test_few_seeds_are_inconclusive(hand):
    after = hand.snapshot({name: {s: v for s, v in row.items() if name != "good" or s == 0}
                           for name, row in moved(hand.scores(), "poor", 0.1).items()})  # fmt: skip
    result = check(hand.snapshot(), after)
    assert statuses(result)["level"] == "inconclusive"
    assert "good has 1 seed on both sides" in result.gate("level").text
    assert "good: not run: seeds 1 to 4" in result.gate("compatibility").text


def test_an_optimizer_without_a_common_seed_does_not_pass_beside_identical_ones(hand):
    scores = hand.scores()
    scores["good"] = {7: 45.0, 8: 45.1}
    result = check(hand.snapshot(), hand.snapshot(scores))
    assert (statuses(result)["identity"], result.verdict) == ("pass", Status.INCONCLUSIVE)
    assert result.gate("level").text == "good has 0 seeds on both sides; a test needs 2"


def test_a_new_divergence_fails_where_runs_repeat_their_bits(hand):
    scores = hand.scores()
    scores["good"][3] = None
    result = check(hand.snapshot(), hand.snapshot(scores))
    assert (result.verdict, statuses(result)["health"]) == (Status.FAIL, "fail")
    (case,) = (case for case in result.gate("health").cases if case.name == "good seed 3")
    assert case.text == "diverged: loss is nan; was ok"


def test_a_new_divergence_elsewhere_is_a_matter_of_counts(hand):
    scores = hand.scores()
    scores["good"][3] = None
    result = check(hand.snapshot(), hand.snapshot(scores, place=hand.gpu))
    assert statuses(result)["health"] == "inconclusive"
    assert "with fewer than 9 changed runs this test cannot alarm" in result.gate("health").text
    for name in ("better", "good"):
        scores[name] = dict.fromkeys(range(5))
    result = check(hand.snapshot(), hand.snapshot(scores, place=hand.gpu))
    assert statuses(result)["health"] == "fail"  # 10 of 10 changed runs


def test_a_diverged_run_scores_chance(hand):
    scores = hand.scores()
    scores["good"] = dict.fromkeys(range(5))
    result = check(hand.snapshot(), hand.snapshot(scores, place=hand.gpu))
    (case,) = (case for case in result.gate("level").cases if case.name == "good")
    assert (case.figures["candidate"], case.figures["candidate_failed"]) == (pytest.approx(0.2), 5)
    assert case.status is Status.FAIL


def test_divergence_that_was_there_before_passes(hand):
    scores = hand.scores()
    scores["poor"][1] = None
    assert check(hand.snapshot(scores), hand.snapshot(scores)).verdict is Status.PASS


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.TIMEOUT])
def test_a_run_that_did_not_finish_fails_and_leaves_its_seed_out(hand, outcome):
    changes = {"outcome": outcome, "reason": "RuntimeError: broken", "metrics": {}, "evaluations": ()}
    after = replaced(hand.snapshot(), changes, optimizer="good", seed=2)
    result = check(hand.snapshot(), after)
    assert (result.verdict, statuses(result)["health"], statuses(result)["level"]) == (Status.FAIL, "fail", "pass")
    assert result.gate("health").text == "1 run did not finish: RuntimeError: broken"
    assert "so one of them has changed" not in result.gate("identity").text  # the machine may have
    assert {case.name: case.figures["n"] for case in result.gate("level").cases}["good"] == 4
    assert check(after, after).verdict is Status.PASS  # it was so before


def test_a_removed_optimizer_fails_unless_allowed_and_a_new_one_does_not(hand):
    scores = hand.scores()
    fewer = hand.snapshot({name: row for name, row in scores.items() if name != "poor"})
    result = check(hand.snapshot(), fewer)
    assert (result.verdict, statuses(result)["compatibility"]) == (Status.FAIL, "fail")
    assert "--allow-removed poor" in result.gate("compatibility").text
    for allowed in ("poor", "po*"):
        assert check(hand.snapshot(), fewer, Options(allow_removed=(allowed,))).verdict is Status.PASS
    result = check(fewer, hand.snapshot())
    assert result.verdict is Status.PASS
    assert result.gate("compatibility").text == "poor: new; the baseline has no such optimizer"


def test_no_cause_is_named_that_the_runs_do_not_show(hand):
    result = check(hand.snapshot(), hand.snapshot(moved(hand.scores(), "good", 3.0), lr=0.2))
    assert result.gate("identity").text.endswith("equal code and settings would repeat every bit here, so one of them "
                                                 "has changed")  # fmt: skip


def test_names_in_options_must_be_the_baselines(hand):
    with pytest.raises(UsageError, match="--allow-removed: unknown optimizer 'por': did you mean 'poor'"):
        check(hand.snapshot(), hand.snapshot(), Options(allow_removed=("por",)))
    with pytest.raises(UsageError, match="--reference: unknown optimizer"):
        check(hand.snapshot(), hand.snapshot(), Options(reference="sgd"))


def test_another_protocol_is_incompatible_and_its_keys_are_named(hand):
    other = changed(hand.protocol, {"epochs": 4, "workload": {"dataset_options": {"noise": 0.1}}}, "test")
    result = check(hand.snapshot(), hand.snapshot(protocol=other))
    assert result.verdict is Status.INCOMPATIBLE
    assert {case.name: case.text for case in result.gates[0].cases} == {
        "protocol epochs": "3 in the baseline, 4 now",
        "protocol workload.dataset_options.noise": "0.04 in the baseline, 0.1 now",
    }
    assert len(result.gates) == 1


def test_other_data_and_no_common_seeds_are_incompatible(hand):
    prints = [Fingerprints(initial_weights="w", batch_order="o", data=digest) for digest in "ab"]
    result = check(*(replaced(hand.snapshot(), {"fingerprints": each}) for each in prints))
    assert result.verdict is Status.INCOMPATIBLE and "data: " in result.gates[0].text
    others = {name: {seed + 10: v for seed, v in row.items()} for name, row in hand.scores().items()}
    result = check(hand.snapshot(), hand.snapshot(others))
    assert result.verdict is Status.INCOMPATIBLE and "no optimizer has 2 seeds on both sides" in result.gates[0].text


def test_what_else_differs_is_said(hand):
    place = hand.place.model_copy(update={"versions": hand.place.versions | {"torch": "2.12"}, "git_commit": "d" * 40})
    after = hand.snapshot(place=place, weight_decay=0.1, lr=0.2)
    after = replaced(after, {"fingerprints": Fingerprints(initial_weights="x", batch_order="o1")}, seed=1)
    result = check(hand.snapshot(), after)
    said = "\n".join(result.notes)
    assert "good has other settings: lr 0.1 → 0.2, weight_decay – → 0.1" in said
    assert "another environment than the baseline's: torch 2.11 → 2.12" in said
    assert "seed 1: not the initial weights or batches of the baseline, so the seeds pair less" in said
    assert (result.baseline.commit, result.candidate.commit) == ("c" * 12, "d" * 12)


def test_equal_scores_with_other_losses_are_pointed_out(hand):
    result = check(hand.snapshot(), replaced(hand.snapshot(), {"loss": 1.0}, optimizer="good"))
    assert result.verdict is Status.PASS
    assert result.notes == ("scores are the same and losses are not, so numerics have changed: good",)


def slower(snap, name, factor):
    """The runs of one optimizer with their evaluations at `factor` times the steps."""
    runs = tuple(
        run.model_copy(update={"evaluations": tuple((round(factor * step), s, score) for step, s, score in
                                                    run.evaluations)}) if run.optimizer == name else run
        for run in snap.runs
    )  # fmt: skip
    return snap.model_copy(update={"runs": runs})


def test_more_steps_to_the_target_warn_or_fail(hand):
    after = slower(hand.snapshot(), "good", 2)
    result = check(hand.snapshot(), after)
    assert (result.verdict, statuses(result)["time"]) == (Status.PASS, "warn")
    (case,) = (case for case in result.gate("time").cases if case.name == "good steps")
    assert case.figures["ratio"] == pytest.approx(2.0)
    # The target of an optimizer: 0.2 + 0.9 (44.5 − 0.2) = 40.07; its runs rise by a third of their score in 10 steps.
    assert case.text.startswith("steps to avg_r1 40.07: 26.7 before, 53.3 now, × 2")
    assert check(hand.snapshot(), after, Options(time_fails=True)).verdict is Status.FAIL


def test_slower_steps_beside_the_reference_warn_and_never_fail(hand):
    after = replaced(hand.snapshot(), {"training_seconds": 9.0}, optimizer="good")
    for options in (Options(), Options(time_fails=True)):
        result = check(hand.snapshot(), after, dataclasses.replace(options, reference="better"))
        assert (result.verdict, statuses(result)["time"]) == (Status.PASS, "warn")
        assert "good seconds: seconds a step, in better's: 1 before, 1.5 now" in result.gate("time").text
    slow_day = replaced(hand.snapshot(), {"training_seconds": 9.0})
    assert statuses(check(hand.snapshot(), slow_day))["time"] == "pass"
    elsewhere = hand.snapshot(place=hand.gpu)
    cases = check(hand.snapshot(), elsewhere).gate("time").cases
    assert not [case for case in cases if case.name.endswith("seconds")]


def test_the_result_is_plain_json(hand):
    scores = hand.scores()
    scores["good"] = {0: 44.0}
    content = check(hand.snapshot(), hand.snapshot(scores)).to_json()
    text = json.dumps(content, allow_nan=False)
    assert json.loads(text) == content
    assert content["verdict"] == "inconclusive" and content["result_version"] == 1
    assert {"name", "status", "text", "alpha", "cases"} == set(content["gates"][0])

"""What a check writes: text of 80 columns, JUnit, GitHub's commands and summary, exports, history."""

import json
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench.check import exports
from bench.check.check import Options, check
from bench.check.exports import append_history, bencher, github_action_benchmark, history_line, means, write_export
from bench.check.github import SUMMARY_BYTES, annotation_lines, append_summary, command, markdown, plain
from bench.check.junit import junit
from bench.check.result import Status
from bench.check.text import view
from bench.commands import check as check_module

NASTY = '::error::a|b*c_d`<script>[x](y),: 100% "q" & é'


@pytest.fixture
def failing(hand):
    """Every kind of gate: good has lost, poor is noisily worse, middle diverged once, and a name full of markup."""
    scores = hand.scores()
    scores["good"] = {seed: value - 3 for seed, value in scores["good"].items()}
    scores["poor"] = {
        seed: value - step for (seed, value), step in zip(scores["poor"].items(), (4, -3, 5, 0, 2), strict=True)
    }
    scores["middle"][1] = None
    extra = {NASTY: {0: 1.0, 1: 2.0}}
    return check(hand.snapshot(hand.scores() | extra), hand.snapshot(scores, place=hand.gpu))


def shown(result, width=80):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(view(result))
        return console.export_text()


def test_the_text_says_verdict_gates_and_optimizers_in_80_columns(hand, failing):
    text = shown(failing)
    assert max(map(len, text.splitlines())) <= 80
    for part in ("level", "fail", "good", "45.08", "42.08", "-3 ", "FAIL: compatibility, level", "inconclusive"):
        assert part in text
    assert "(24.36)" in text  # a mean that holds a diverged run
    assert shown(check(hand.snapshot(), hand.snapshot())).rstrip().endswith("PASS")


def test_an_interval_that_there_is_not_is_a_dash(hand):
    scores = hand.scores()
    scores["good"] = {0: 45.0}
    assert "inf to" not in shown(check(hand.snapshot(), hand.snapshot(scores))).replace("\u2212", "-")


def test_names_cannot_style_the_terminal(hand):
    scores = {"[red]x[/red]": {0: 1.0, 1: 2.0}}
    assert "[red]x[/red]" in shown(check(hand.snapshot(scores), hand.snapshot(scores)))


def test_control_signs_of_reasons_and_settings_do_not_get_out(hand):
    scores = hand.scores()
    scores["good"][1] = None
    after = hand.snapshot(scores, device="\x1b[2J\nrm")
    runs = tuple(run.model_copy(update={"reason": "\x1b]0;x\x07\r\nbad"}) for run in after.runs)
    result = check(hand.snapshot(), after.model_copy(update={"runs": runs}))
    everything = "".join([json.dumps(result.to_json(), ensure_ascii=False), junit(result), markdown(result),
                          *annotation_lines(result)])  # fmt: skip
    assert not [sign for sign in everything if not sign.isprintable() and sign != "\n"]


def test_junit_has_a_suite_a_gate_and_a_case_an_optimizer(failing):
    root = ET.fromstring(junit(failing))
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["compatibility", "identity", "health", "level", "order", "time"]
    level = {case.get("name"): case for case in suites["level"]}
    assert set(level) == {"better", "good", "middle", "poor"}
    assert level["good"].find("failure").get("message").startswith("good lost"[5:])
    assert level["poor"].find("skipped") is not None
    assert level["better"].find("failure") is level["better"].find("skipped") is None
    assert {case.get("name") for case in suites["order"]} >= {"middle > poor"}
    for suite in root:
        assert int(suite.get("tests")) == len(suite)
        assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))
        assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))
    removed = {case.get("name") for case in suites["compatibility"] if case.find("failure") is not None}
    assert removed == {NASTY}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(min_size=1, max_size=40).filter(str.isprintable))
def test_any_name_survives_every_output(hand, name):
    result = check(hand.snapshot({name: {0: 1.0, 1: 2.0}}), hand.snapshot({name: {0: 0.0, 1: 2.5}}))
    cases = [case.get("name") for case in ET.fromstring(junit(result)).iter("testcase")]
    clean = " ".join(name.split())
    assert clean in cases or not clean
    for line in annotation_lines(result):
        assert line.startswith(("::error title=", "::warning title=")) and len(line.splitlines()) <= 1
    rows = [line for line in markdown(result).splitlines() if line.startswith("|")]
    assert all(row.replace("\\|", "").count("|") in (4, 7) for row in rows)


def test_github_commands_are_escaped():
    line = command("error", "a: b, c%\r\n", "x: 1, 2%\n::warning::y\r")
    assert line == "::error title=a%3A b%2C c%25%0D%0A::x: 1, 2%25%0A::warning::y%0D"


def test_there_is_one_annotation_a_gate(failing):
    lines = annotation_lines(failing)
    kinds = [line.partition(" ")[0] for line in lines]
    assert kinds == ["::error", "::warning", "::error", "::warning"]  # compatibility, health, level, time
    assert "title=bench check%3A level fail::good lost 3 points" in lines[2]


def test_markdown_shows_names_as_they_are(failing):
    text = markdown(failing)
    assert plain("a|b*c<x>&[l](u)@me #1") == r"a\|b\*c&lt;x&gt;&amp;\[l\]\(u\)\@me \#1"
    assert "<script>" not in text and "[x](y)" not in text
    assert text.startswith("## bench check: FAIL\\: compatibility, level\n")
    assert "| good | 45.08 | 42.08 |" in text


def test_a_summary_ends_before_githubs_limit(tmp_path):
    path = tmp_path / "summary.md"
    append_summary("first\n", path)
    append_summary("é" * SUMMARY_BYTES, path)
    content = path.read_bytes()
    assert SUMMARY_BYTES - 2 <= len(content) <= SUMMARY_BYTES
    assert content.decode().startswith("first\né") and content.decode().endswith("a step may write 1 MiB.\n")
    append_summary("no room", path)
    assert path.read_bytes() == content


def test_exports_have_mean_and_interval(hand, tmp_path):
    after = hand.snapshot()
    result = check(hand.snapshot(), after)
    (first, *_) = github_action_benchmark(after, result)
    # better: mean 45.1, sd .6708, t .975 with 4 degrees of freedom 2.776: 45.1 ± .833.
    assert first == {"name": "better avg_r1", "unit": "%", "value": pytest.approx(45.1), "range": "± 0.833",
                     "extra": f"5 seeds, protocol {hand.protocol.hash}; is unchanged"}  # fmt: skip
    measure = bencher(after, result)["better"]["avg_r1"]
    assert measure == {"value": pytest.approx(45.1), "lower_value": pytest.approx(45.1 - 0.833, abs=1e-3),
                       "upper_value": pytest.approx(45.1 + 0.833, abs=1e-3)}  # fmt: skip
    for kind in exports.EXPORTS:
        write_export(kind, tmp_path / kind, after, result)
        assert json.loads((tmp_path / kind).read_text())
    assert tuple(exports.EXPORTS) == check_module.EXPORTS


def test_one_seed_has_a_mean_without_an_interval(hand):
    found = means(hand.snapshot({"a": {0: 1.0}, "b": {0: None}}))
    assert (found["a"].value, found["a"].low) == (1.0, None)
    assert found["b"].value == pytest.approx(0.2)


def test_history_is_a_line_a_check_and_survives_a_torn_one(hand, tmp_path):
    after = hand.snapshot()
    line = history_line(after, check(after, after, Options()), "2026-01-01T00:00:00+00:00")
    path = tmp_path / "deep" / "history.jsonl"
    append_history(path, line)
    path.write_text(path.read_text() + '{"torn')
    append_history(path, line)
    lines = path.read_text().splitlines()
    assert [json.loads(lines[i]) for i in (0, 2)] == [line, line]
    assert line["verdict"] == "pass" and line["commit"] == "c" * 12
    assert line["optimizers"]["good"]["mean"] == pytest.approx(45.08)


def test_statuses_have_a_style_each():
    from bench.check.text import STYLES

    assert set(STYLES) == set(Status)

"""`bench score`: performance-profile scores of times to a target, worked by hand, and what is refused."""

import io
import json
import math
import sys

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench.cli import cli, main
from bench.errors import UsageError
from bench.time_score import read_studies, score_studies, table

TIMES = st.one_of(st.floats(1, 1000), st.just(math.inf))


def scores(studies, r_max=4.0):
    return {each.name: each.score for each in score_studies(studies, r_max).submissions}


def test_scores_by_hand():
    # w1: a's studies are best at 100, 110, 105: median 105; b's at 210, inf, 200: median 210, twice the best.
    # w2: a missed in two of three studies; b 50. Scores: a (1 + 0) / 2, b ((4 - 2) / 3 + 1) / 2 = 5/6.
    studies = {
        "a": {"w1": [[100, 120], [math.inf, 110], [105]], "w2": [[math.inf], [40], [math.inf]]},
        "b": {"w1": [[210], [math.inf], [200]], "w2": [[50], [50], [50]]},
    }
    assert scores(studies) == {"b": pytest.approx(5 / 6), "a": pytest.approx(0.5)}
    assert scores(studies, r_max=2.0) == {"a": pytest.approx(0.5), "b": pytest.approx(0.5)}


def test_an_even_number_of_studies_takes_the_middle_two():
    studies = {"a": {"w": [[1.0], [3.0]]}, "b": {"w": [[4.0], [math.inf]]}}
    (first, second) = score_studies(studies).submissions
    assert (first.times["w"], second.times["w"]) == (2.0, math.inf)
    assert second.score == 0


def test_certain_studies_have_no_width_and_a_certain_first():
    found = score_studies({"a": {"w": [[1.0]] * 3}, "b": {"w": [[2.0]] * 3}}).submissions[0]
    assert (found.name, found.ci95, found.first) == ("a", (1.0, 1.0), 1.0)


def test_equal_submissions_share_the_first_place():
    found = score_studies({"a": {"w": [[1.0]] * 2}, "b": {"w": [[1.0]] * 2}}).submissions
    assert [each.first for each in found] == [0.5, 0.5]


def test_of_a_single_study_no_uncertainty_is_claimed():
    found = score_studies({"a": {"w": [[1.0]]}, "b": {"w": [[2.0], [2.1]]}})
    assert [(each.ci95, each.first) for each in found.submissions] == [(None, None), (None, None)]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(found))
    text = " ".join(console.export_text().split())
    assert "a 1.000 – – 0 of 1" in text and "need two studies or more of every entry on every workload" in text
    assert json.loads(json.dumps(found.to_json()))["submissions"][0]["ci95"] is None


def test_an_order_that_hangs_on_a_third_entry_is_said():
    # The third is fast on w1 alone: beside it both look slow there, and w2 decides; without it w1 does.
    studies = {
        "a": {"w1": [[9.0]], "w2": [[1.0]]},
        "b": {"w1": [[3.5]], "w2": [[2.5]]},
        "third": {"w1": [[1.0]], "w2": [[math.inf]]},
    }
    with_third, without = scores(studies), scores({name: studies[name] for name in ("a", "b")})
    assert with_third["a"] > with_third["b"] and without["b"] > without["a"]
    assert "without third, b stands above a" in score_studies(studies).flips


@settings(max_examples=25, deadline=None, derandomize=True)
@given(times=st.lists(st.lists(TIMES, min_size=3, max_size=3), min_size=1, max_size=4))
def test_scores_lie_between_0_and_1_and_do_not_depend_on_order(times):
    studies = {name: {f"w{i}": [[row[k]]] for i, row in enumerate(times)} for k, name in enumerate("abc")}
    found = scores(studies)
    assert all(0 <= score <= 1 for score in found.values())
    turned = scores({name: dict(reversed(studies[name].items())) for name in "cab"})
    assert {name: pytest.approx(score) for name, score in turned.items()} == found


REFUSED = {
    "empty": ("", "not readable as JSON: Expecting value"),
    "too deep": ("[" * 100_000, "not readable as JSON: maximum recursion depth"),
    "a submission twice": ('{"a": {"w": [[1]]}, "a": {"w": [[2]]}}', "not readable as JSON: 'a' is there twice"),
    "a workload twice": ('{"a": {"w": [[1]], "w": [[2]]}}', "'w' is there twice"),
    "no trials": ('{"a": {"w": [[]]}}', "a, w: allowed is a list of studies"),
    "true": ('{"a": {"w": [[true]]}}', "a, w, study 0: time is True"),
    "infinite": ('{"a": {"w": [[1e999]]}}', "time is inf"),
    "truncated": ('{"a": {"w": [[1', "not readable as JSON"),
    "a list": ("[1]", "allowed is {submission"),
    "no workloads": ('{"a": {}}', "a: allowed is {workload"),
    "no studies": ('{"a": {"w": []}}', "a, w: allowed is a list of studies"),
    "a flat list": ('{"a": {"w": [1, 2]}}', "a, w: allowed is a list of studies"),
    "text": ('{"a": {"w": [["fast"]]}}', "a, w, study 0: time is 'fast'; allowed are numbers > 0 and \"inf\""),
    "zero": ('{"a": {"w": [[1], [0]]}}', "a, w, study 1: time is 0"),
    "NaN": ('{"a": {"w": [[NaN]]}}', "time is nan"),
    "other workloads": ('{"a": {"w": [[1]]}, "b": {"v": [[1]]}}', "a and b do not have the same workloads: 'v'"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_allowed_is_named(tmp_path, text, message):
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        read_studies(path)
    assert message in str(refused.value)


@pytest.mark.parametrize("text", [text for text, _ in REFUSED.values()], ids=REFUSED)
def test_the_command_refuses_in_one_line_that_names_the_file(tmp_path, text, monkeypatch, capsys):
    path = tmp_path / "times.json"
    path.write_text(text)
    monkeypatch.setattr(sys, "argv", ["bench", "score", str(path)])
    with pytest.raises(SystemExit) as stop:
        main()
    output = capsys.readouterr()
    assert (stop.value.code, output.out, len(output.err.splitlines())) == (2, "", 1)
    assert "times.json" in output.err


def test_a_byte_order_mark_is_no_fault_and_a_missing_file_is(tmp_path):
    path = tmp_path / "times.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": {"w": [[1]]}}\r\n')
    assert read_studies(path) == {"a": {"w": [[1.0]]}}
    for place, fault in ((tmp_path / "none.json", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=fault):
            read_studies(place)


def test_the_command_prints_a_table_and_strict_json(tmp_path):
    path = tmp_path / "times.json"
    path.write_text('{"a": {"w": [["inf"]]}, "b": {"w": [[2]]}}')
    assert "Leave one out" in CliRunner().invoke(cli, ["score", str(path)], catch_exceptions=False).stdout
    printed = CliRunner().invoke(cli, ["score", str(path), "--json"], catch_exceptions=False).stdout
    found = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert [each["name"] for each in found["submissions"]] == ["b", "a"]
    assert found["submissions"][1]["times"] == {"w": "inf"}
    refused = CliRunner().invoke(cli, ["score", str(path), "--r-max", "1"])
    assert isinstance(refused.exception, UsageError) and "--r-max 1" in str(refused.exception)

"""`bench check` and `bench baseline update` as they are typed: exit codes, files, streams."""

import json
import os
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from bench.check.baseline import to_text, write_baseline
from bench.check.snapshot import snapshot
from bench.cli import main


@pytest.fixture
def bench(tmp_path, capsys, monkeypatch):
    """Calls the command in tmp_path: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "BENCH_DATA"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


def lower(hand, by):
    scores = hand.scores()
    scores["good"] = {seed: score - by for seed, score in scores["good"].items()}
    return scores


def noisy(hand):
    scores = hand.scores()
    steps = (-4.0, 3.0, -5.0, 1.0, -2.0)
    scores["good"] = {seed: score + step for (seed, score), step in zip(scores["good"].items(), steps, strict=True)}
    return scores


def test_the_same_study_is_0_and_a_lower_one_1(bench, write_study, hand):
    write_study("main")
    write_study("same")
    write_study("lower", lower(hand, 3))
    assert bench("baseline", "update", "main", "--output", "b.json")[0] == 0
    code, out, err = bench("check", "same", "--baseline", "b.json")
    assert (code, err) == (0, "") and out.rstrip().endswith("PASS")
    code, out, _ = bench("check", "lower", "--baseline", "b.json")
    assert code == 1 and "FAIL: level" in out
    assert bench("check", "results/lower", "-b", "main")[0] == 1  # both by study
    assert bench("check", "lower", "-b", "b.json", "--margin", "4")[0] == 0
    assert bench("check", "lower", "-b", "b.json", "-o", "better,po*")[0] == 0
    assert bench("check", "lower", "-b", "b.json", "--tolerance", "3.01")[0] == 0


def test_inconclusive_passes_or_is_3(bench, write_study, hand):
    write_study("main")
    write_study("noisy", noisy(hand))
    code, out, _ = bench("check", "noisy", "-b", "main")
    assert code == 0 and "INCONCLUSIVE: level" in out
    assert bench("check", "noisy", "-b", "main", "--inconclusive", "fail")[0] == 3


def test_no_baseline_another_schema_and_another_protocol_are_4(bench, write_study, hand, tmp_path):
    study = write_study("main")
    code, out, err = bench("check", "main", "-b", "none.json")
    assert (code, out) == (4, "")
    assert err.startswith("error: baseline 'none.json': there is no such file, and no finished runs in results/none.js")
    assert len(err.splitlines()) == 1
    (tmp_path / "newer.json").write_text(to_text(snapshot(study)).replace('"schema_version": 1', '"schema_version": 9'))
    assert "schema_version 9 is newer" in bench("check", "main", "-b", "newer.json")[2]
    write_baseline(hand.snapshot(protocol=hand.protocol.model_copy(update={"epochs": 9})), tmp_path / "other.json")
    code, out, err = bench("check", "main", "-b", "other.json")
    assert code == 4 and "protocol epochs: 9 in the baseline, 3 now" in out


def test_bad_input_is_2_in_one_line(bench, write_study, hand, tmp_path):
    write_study("main")
    write_study("other")
    (tmp_path / "torn.json").write_text(to_text(hand.snapshot())[:1000])
    for arguments, message in (
        (["check", "main", "-b", "torn.json"], "torn.json: Invalid JSON"),
        (["check", "none", "-b", "main"], "no finished runs in results/none"),
        (["check", "main", "-b", "main"], "would be compared with itself"),
        (["check", "main"], "Missing option '--baseline'"),
        (["check", "main", "-b", "other", "--run"], "--run makes a study of its own; give STUDY or --run"),
        (["check", "main", "-b", "other", "--export", "csv=x"], "'csv=x': allowed are github-action-benchmark=FILE"),
        (["check", "main", "-b", "other", "--export", "bencher="], "'bencher=': allowed are"),
        (["check", "main", "-b", "other", "--alpha", "2"], "--alpha"),
        (["check", "main", "-b", "other", "--alpha", "nan"], "'nan' is no finite number"),
        (["check", "main", "-b", "other", "--tolerance", "nan"], "'nan' is no finite number"),
        (["check", "main", "-b", "other", "--margin", "inf"], "'inf' is no finite number"),
        (["check", "main", "-b", "other", "-o", "good,por"], "unknown optimizer 'por': did you mean 'poor'"),
        (["baseline", "update", "main", "--output", "x.json", "-o", "good,por"], "--optimizers por matches none of"),
        (["check", "main", "-b", "other", "--allow-removed", "goood"], "did you mean 'good'"),
        (["check", "main", "-b", "other", "-o", "none"], "unknown optimizer 'none': allowed are better, good"),
        (["baseline", "update", "none", "--output", "b.json"], "no finished runs in results/none"),
    ):  # fmt: skip
        code, out, err = bench(*arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1), (arguments, err)
        assert message in err


def test_every_output_at_once(bench, write_study, hand, tmp_path, monkeypatch):
    write_study("main")
    write_study("lower", lower(hand, 3))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    arguments = ["check", "lower", "-b", "main", "--junit", "out/junit.xml", "--history", "history.jsonl",
                 "--export", "bencher=bmf.json", "--export", "github-action-benchmark=gab.json"]  # fmt: skip
    code, out, err = bench(*arguments)
    assert code == 1 and "::error title=bench check%3A level fail::good lost 3 points" in out and err == ""
    code, out, err = bench(*arguments, "--json")
    content = json.loads(out)
    assert code == 1 and content["verdict"] == "fail" and err.startswith("::error title=")
    assert content["baseline"]["source"] == "main" and content["candidate"]["runs"] == 20
    assert ET.parse(tmp_path / "out" / "junit.xml").getroot().tag == "testsuites"
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "bmf.json").read_text())["good"]["avg_r1"]["value"] == pytest.approx(42.08)
    assert len(json.loads((tmp_path / "gab.json").read_text())) == 4
    assert (tmp_path / "summary.md").read_text().count("## bench check: FAIL") == 2
    code, out, _ = bench("check", "lower", "-b", "main", "--no-github")
    assert code == 1 and "::error" not in out


def test_an_update_reports_and_says_when_there_is_nothing_to_do(bench, write_study, hand, tmp_path):
    write_study("main")
    write_study("next", lower(hand, 3))
    assert bench("baseline", "update", "main", "--output", "b.json")[1].startswith("new: 4 optimizers, 20 runs\n")
    code, out, err = bench("baseline", "update", "main", "--output", "b.json")
    assert (code, out) == (5, "") and "nothing to do" in err
    code, out, _ = bench("baseline", "update", "next", "--output", "b.json")
    assert code == 0 and "level: good 45.08 → 42.08" in out
    newer = (tmp_path / "b.json").read_text().replace('"schema_version": 1', '"schema_version": 9')
    (tmp_path / "b.json").write_text(newer)
    code, out, err = bench("baseline", "update", "next", "--output", "b.json", "-o", "good")
    assert code == 0 and "the old file is replaced unread" in err and out.startswith("new: 1 optimizer, 5 runs")


def test_an_update_overwrites_no_file_that_is_no_baseline(bench, write_study, tmp_path):
    write_study("main")
    for name, text in (("notes.md", "# mine"), ("package.json", '{"name": "mine"}')):
        (tmp_path / name).write_text(text)
        code, out, err = bench("baseline", "update", "main", "--output", name)
        assert (code, out, len(err.splitlines())) == (2, "", 1) and f"is left as it is: {name}: " in err
        assert (tmp_path / name).read_text() == text


def test_a_baseline_is_a_file_a_study_or_one_protocol_of_it(bench, write_study, hand, tmp_path):
    write_study("main")
    write_study("pr")
    bench("baseline", "update", "main", "--output", "b.json")
    for source in ("b.json", "main", "results/main", f"main@{hand.protocol.hash}"):
        code, out, _ = bench("check", "pr", "-b", source)
        assert code == 0 and "all 20 runs score the same" in out
    code, _, err = bench("check", "pr", "-b", f"main@{'0' * 12}")
    assert code == 4 and "no runs of protocol '000000000000'" in err
    torn = next((tmp_path / "results" / "main" / "runs").glob("good-s3*")) / "run.json"
    torn.write_text("{")
    code, out, err = bench("check", "pr", "-b", "main")
    assert code == 0 and "all 19 runs score the same" in out and "1 unreadable, left out; first: " in err


def test_a_torn_curve_is_pointed_out(bench, write_study, tmp_path):
    write_study("main")
    study = write_study("pr")
    (study.path / "runs" / "good-s3-c0" / "curve.jsonl").write_text("{}\n")
    code, out, _ = bench("check", "pr", "-b", "main")
    assert code == 0 and "note: 1 unreadable curve, first: " in " ".join(out.split())


def test_a_search_alone_is_no_study_to_compare(bench, write_study):
    write_study("tuned", {"sgd": {1_000_000: 1.0, 1_000_001: 2.0}})
    write_study("main")
    for arguments in (["check", "tuned", "-b", "main"], ["compare", "main", "tuned"], ["power", "tuned"],
                      ["baseline", "update", "tuned", "--output", "b.json"]):  # fmt: skip
        code, out, err = bench(*arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1) and "holds nothing but a search" in err
    assert bench("check", "main", "-b", "tuned")[0] == 4


def test_no_name_is_a_command_to_github(bench, write_study, monkeypatch):
    write_study("main", {"::error title=x::y": {0: 1.0, 1: 2.0}})
    write_study("pr", {"::error title=x::y": {0: 1.0, 1: 2.0}})
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    lines = bench("check", "pr", "-b", "main")[1].splitlines()
    assert lines[0].startswith("::stop-commands::")
    token = lines[0].removeprefix("::stop-commands::")
    assert len(token) == 32 and f"::{token}::" in lines
    assert any(line.startswith("::error title=x::y") for line in lines[: lines.index(f"::{token}::")])
    assert not any(line.startswith("::") for line in lines[lines.index(f"::{token}::") + 1 :])
    assert bench("check", "pr", "-b", "main", "--json")[1].startswith("{")
    assert "stop-commands" not in bench("check", "pr", "-b", "main", "--no-github")[1]


def test_records_of_another_commit_are_pointed_out(bench, write_study):
    write_study("main")
    write_study("pr")
    _, out, _ = bench("check", "pr", "-b", "main")
    assert "the study was run at another commit than the code here is at" in " ".join(out.split())


def test_help_is_instant():
    code = """
import sys
from bench.commands import baseline, check
assert not {'torch', 'pydantic', 'numpy'} & set(sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_run_repeats_the_baseline_with_todays_code(bench, tiny_toml, tmp_path, write_plugin):
    """Through worker processes: identical runs, a check that goes on where it was, and a class that raises."""
    run = ["run", "-o", "sgd", "-p", tiny_toml, "--seeds", "2", "--workers", "1", "-O", "sgd.lr=0.02"]
    assert bench(*run, "--study", "main")[0] == 0
    assert bench("baseline", "update", "main", "--output", "b.json")[0] == 0
    check = ["check", "--run", "-b", "b.json", "--workers", "1"]
    code, out, err = bench(*check)
    assert code == 0 and "all 2 runs score the same" in out
    assert "2 runs, 0 done by this same code" in err and "[2/2] sgd seed 1" in err
    code, out, err = bench(*check)
    assert code == 0 and "2 runs, 2 done by this same code" in err
    code, out, _ = bench(*check, "-o", f"sgd={write_plugin('raise RuntimeError(chr(98) + chr(97) + chr(100))')}")
    assert code == 1 and "2 runs did not finish: RuntimeError: bad" in " ".join(out.split())
    assert len(list((tmp_path / "results").iterdir())) == 3


def test_names_of_the_environment_do_not_leave_the_machine(bench, write_study, tmp_path):
    study = write_study("main")
    write_study("other")
    bench("check", study.path, "-b", tmp_path / "results" / "other", "--history", "h.jsonl", "--junit", "j.xml")
    for name in ("h.jsonl", "j.xml"):
        text = (tmp_path / name).read_text()
        assert str(tmp_path) not in text and os.uname().nodename not in text

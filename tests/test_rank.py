"""`bench rank`: any table of scores, what is said of it, and what is refused."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import verdict_text
from bench.cli import cli, main
from bench.errors import UsageError
from bench.ranking import rank_table
from bench.score_table import read_scores


def write(folder, text):
    path = folder / "scores.csv"
    path.write_text(text)
    return path


@pytest.fixture
def clear(tmp_path):
    """a beats b and c, which are not told apart; d diverged in three of five seeds."""
    rows = ["0,47.0,45.1,45.0,diverged", "1,46.2,44.0,44.1,diverged", "2,47.5,45.4,45.6,Diverged", "3,46.9,45.0,44.8,3",
            "4,47.3,45.2,45.3,4"]  # fmt: skip
    return write(tmp_path, "seed,a,b,c,d\n" + "\n".join(rows) + "\n")


def test_a_clear_winner_is_the_best_and_the_rest_is_not_told_apart(clear):
    found = rank_table(clear)
    by_name = {entry.name: entry for entry in found.entries}
    assert found.entries[0].name == "a"
    assert found.best_set == ("a",)
    assert by_name["b"].rank_interval == by_name["c"].rank_interval == (2, 3)
    assert by_name["b"].letters == by_name["c"].letters
    assert (by_name["d"].success.successes, by_name["d"].reliable) == (2, False)
    said = " ".join(verdict_text.sentences(found))
    assert "a is the best" in said
    assert "d finished 2 of 5 runs" in said
    assert "quivalent" not in said  # nobody asked


def test_equivalent_needs_the_test(clear):
    said = " ".join(verdict_text.sentences(rank_table(clear, margin=0.5)))
    assert "Equivalent within 0.5, each pair tested on its own: c and b." in said
    assert "Equivalent" not in " ".join(verdict_text.sentences(rank_table(clear, margin=0.01)))


def test_noise_has_no_best(tmp_path):
    scores = np.random.default_rng(0).normal(size=(5, 4))
    path = write(
        tmp_path, "seed,a,b,c,d\n" + "\n".join(f"{i},{','.join(map(str, row))}" for i, row in enumerate(scores))
    )
    found = rank_table(path)
    assert len(found.best_set) == 4
    assert verdict_text.sentences(found)[0].startswith("Not resolved: any of the 4 may be the best")


def test_three_seeds_rank_nothing(tmp_path):
    rows = ["0,47.0,45.1", "1,46.2,44.1", "2,47.5,45.4", "3,46.9,45.0"]
    three, four = (
        " ".join(verdict_text.sentences(rank_table(write(tmp_path, "seed,a,b\n" + "\n".join(rows[:n])))))
        for n in (3, 4)
    )
    assert "a is ahead of all others in these runs (family-wise error 0.05, 3 seeds)." in three
    assert "the best" not in three and "Ranks" not in three and "3 seeds are a description, no ranking" in three
    assert "a is the best" in four and "Ranks, 95 % jointly" in four


def test_lower_may_be_better(tmp_path):
    path = write(tmp_path, "seed,slow,fast\n0,2.0,1.0\n1,2.1,1.1\n2,2.2,1.15\n3,2.0,1.05\n")
    assert rank_table(path, lower_is_better=True).best_set == ("fast",)
    assert rank_table(path).best_set == ("slow",)


def test_a_missing_score_leaves_its_seed_out_for_all(tmp_path):
    path = write(tmp_path, "seed,a,b\n0,1,2\n1,1.1,\n2,1.2,2.1\n3,1,2.2\n")
    found = rank_table(path)
    assert (found.n_seeds, found.dropped_seeds) == (3, 1)
    assert "1 seed was left out" in " ".join(verdict_text.sentences(found))


def test_a_diverged_run_scores_the_worst_of_the_table_or_what_is_said(clear):
    means = [{e.name: e.mean for e in rank_table(clear, chance=chance).entries}["d"] for chance in (None, 0.2)]
    assert means == [pytest.approx((3 * 3 + 3 + 4) / 5), pytest.approx((3 * 0.2 + 3 + 4) / 5)]


def test_against_a_reference_there_are_fewer_tests(clear):
    found = rank_table(clear, reference="b")
    assert {pair.b for pair in found.pairs} == {"b"}
    assert len(found.pairs) == 3


REFUSED = {
    "ragged": ("seed,a,b\n0,1,2\n1,1\n", "scores.csv, row 3: has 2 cells; the header has 3"),
    "text": (
        "seed,a,b\n0,1,2\n1,1,good\n",
        "scores.csv, row 3, b: 'good'; allowed are a finite number (at most",
    ),
    "NaN": ("seed,a,b\n0,nan,2\n1,1,2\n", "row 2, a: 'nan'"),
    "too large for squares": ("seed,a,b\n0,1e101,2\n1,1,2\n", "row 2, a: '1e101'"),
    "infinite": ("seed,a,b\n0,inf,2\n1,1,2\n", "row 2, a: 'inf'"),
    "duplicate names": ("seed,a,a\n0,1,2\n1,1,2\n", "row 1: 'a' is the name of two columns"),
    "duplicate seeds": ("seed,a,b\n0,1,2\n0,1,2\n", "row 3: seed '0' is there already, in row 2"),
    "no name": ("seed,a,\n0,1,2\n", "row 1: column 3 has no name"),
    "no header": ("0,1,2\n1,1,2\n", "row 1: header is '0,1,2'"),
    "one seed": ("seed,a,b\n0,1,2\n", "1 of 1 rows are complete; a comparison needs 2 seeds or more"),
    "all diverged": ("seed,a,b\n0,diverged,diverged\n1,diverged,\n", "holds no score"),
    "empty": ("", "has no row of scores"),
    "only a header": ("seed,a,b\n", "has no row of scores"),
    "semicolons": ("seed;a;b\n0;1,5;2\n", "row 1: cells are separated by ';'; allowed is a comma"),
    "tabs": ("seed\ta\tb\n0\t1\t2\n", "row 1: cells are separated by '\\t'; allowed is a comma"),
    "open quotes": ('seed,a,b\n0,1,2\n1,"1', "not readable as CSV: unexpected end of data"),
    "binary": ("seed,a\n0,\0\n", "row 2, a: '\\x00'"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_allowed_is_named_with_its_row(tmp_path, text, message):
    with pytest.raises(UsageError) as refused:
        read_scores(write(tmp_path, text))
    assert message in str(refused.value)


@pytest.mark.parametrize("text", [text for text, _ in REFUSED.values()], ids=REFUSED)
def test_the_command_refuses_in_one_line_that_names_the_file(tmp_path, text, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "rank", str(write(tmp_path, text))])
    with pytest.raises(SystemExit) as stop:
        main()
    output = capsys.readouterr()
    assert (stop.value.code, output.out, len(output.err.splitlines())) == (2, "", 1)
    assert "scores.csv" in output.err


@pytest.mark.parametrize("option", ["--alpha", "--grain", "--margin"])
def test_options_are_finite_numbers(clear, option, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "rank", str(clear), option, "nan"])
    with pytest.raises(SystemExit) as stop:
        main()
    output = capsys.readouterr()
    assert (stop.value.code, output.out) == (2, "") and "'nan' is no" in output.err


def test_files_of_spreadsheets_are_read(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_bytes(b"\xef\xbb\xbfseed,a,b\r\n0, 1.5 ,2\r\n\r\n1,1,3\r\n")
    found = read_scores(path)
    assert (found.names, found.seeds) == (("a", "b"), ("0", "1"))
    assert found.scores.tolist() == [[1.5, 2], [1, 3]]
    path.write_bytes("seed,a".encode("utf-16"))
    with pytest.raises(UsageError, match=r"scores\.csv: not readable as CSV: 'utf-8' codec"):
        read_scores(path)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(text=st.text(alphabet='seda,;\n\r"01.5- \tnif', max_size=60))
def test_any_text_is_read_or_refused_with_its_file(tmp_path_factory, text):
    path = write(tmp_path_factory.mktemp("any"), "seed,a,b\n0,1,2\n1,2,2.5\n" + text)
    try:
        found = rank_table(path)
    except UsageError as error:
        assert str(error).startswith(str(path))
    else:
        assert found.best_set and verdict_text.sentences(found)


def test_the_order_of_columns_and_another_entry_change_no_difference_to_the_reference(clear, tmp_path):
    rows = [line.split(",") for line in clear.read_text().splitlines()]
    turned = tmp_path / "turned.csv"
    turned.write_text("\n".join(",".join([row[0], *row[:0:-1]]) for row in rows))
    assert rank_table(turned) == rank_table(clear)
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("\n".join(",".join(row[:3]) for row in rows))
    before, after = (rank_table(path, reference="b") for path in (fewer, clear))
    (pair,) = before.pairs
    same = next(other for other in after.pairs if other.a == "a")
    assert (pair.difference, pair.ci95, pair.p) == (same.difference, same.ci95, same.p)


def test_unknown_references_and_missing_files_are_named(clear, tmp_path):
    with pytest.raises(UsageError, match="--reference: unknown entry 'e'"):
        rank_table(clear, reference="e")
    with pytest.raises(UsageError, match=r"none\.csv: No such file"):
        rank_table(tmp_path / "none.csv")


def test_the_command_prints_words_and_strict_json(clear):
    said = CliRunner().invoke(cli, ["rank", str(clear)], catch_exceptions=False)
    assert said.exit_code == 0 and "a is the best" in said.stdout
    printed = CliRunner().invoke(cli, ["rank", str(clear), "--json", "--grain", "0.1"], catch_exceptions=False)
    found = json.loads(printed.stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert {"n_seeds", "entries", "pairs", "friedman", "mde", "seeds_needed"} <= set(found)
    assert set(found["entries"][0]) >= {"name", "mean", "sd", "ci95", "mean_rank", "rank_interval", "tier", "letters",
                                        "in_best_set", "success"}  # fmt: skip
    assert set(found["pairs"][0]) >= {"a", "b", "difference", "ci95", "t", "p", "p_holm", "poi"}
    assert set(found["friedman"]) >= {"statistic", "p", "p_exact", "kendall_w"}


@pytest.mark.slow
def test_fifty_entries_times_hundred_seeds_are_quick_and_wait_for_no_torch(tmp_path):
    x = np.random.default_rng(0).normal(size=(100, 50))
    text = "\n".join(f"{i},{','.join(f'{v:.4f}' for v in row)}" for i, row in enumerate(x))
    path = write(tmp_path, f"seed,{','.join(f'o{i}' for i in range(50))}\n{text}\n")
    code = "import sys; from bench.cli import cli; cli(['rank', sys.argv[1]], standalone_mode=False); " \
           "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 6  # 1.2 s alone

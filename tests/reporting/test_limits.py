"""The best choice under a constraint."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.errors import UsageError
from bench.record import MemoryUse, Seconds
from bench.reporting.analysis import Analysis
from bench.reporting.document import Bullets, Table
from bench.reporting.limits import Limits, parse_memory, parse_time, section
from bench.study import Study

Write = Callable[..., Study]
BIG = {seed: 40.0 + seed for seed in range(5)}
SMALL = {seed: 30.0 + seed + 0.1 * (-1) ** seed for seed in range(5)}
SMALLER = {seed: 20.0 + seed - 0.1 * (-1) ** seed for seed in range(5)}


@pytest.fixture
def analysis(write_study: Write) -> Analysis:
    """`big` needs 9 GB and an hour, the others 1 GB and 100 s; `gone` never ends well."""
    write_study({"big": BIG}, memory=MemoryUse(peak_bytes=9 * 10**9), seconds=Seconds(training=3000.0, total=3600.0))
    write_study({"small": SMALL, "smaller": SMALLER, "gone": dict.fromkeys(range(5))},
                memory=MemoryUse(peak_bytes=10**9), seconds=Seconds(training=90.0, total=100.0))  # fmt: skip
    return Analysis(write_study({}))


def said(analysis: Analysis, limits: Limits) -> tuple[str, dict[str, str]]:
    lines, grid = section(analysis, limits).blocks
    assert isinstance(lines, Bullets) and isinstance(grid, Table)
    return " ".join(lines.lines), {row[0].text: row[1].text for row in grid.rows}


def test_the_best_within_a_limit_is_not_the_best_of_all(analysis: Analysis):
    text, fits = said(analysis, Limits(memory=8e9))
    assert "2 of 4 optimizers keep within 8.0 GB of memory in every run." in text and "small is the best" in text
    assert fits == {"big": "no", "small": "yes", "smaller": "yes", "gone": "no run is ok"}


def test_time_counts_the_whole_run(analysis: Analysis):
    text, fits = said(analysis, Limits(seconds=100.0))
    assert "within 100.0 s" in text and fits["small"] == "yes" and fits["big"] == "no"
    assert "0 of 4 optimizers keep within" in said(analysis, Limits(seconds=99.0))[0]


def test_both_limits_hold_together(analysis: Analysis):
    text, _ = said(analysis, Limits(memory=10e9, seconds=3600.0))
    assert "3 of 4 optimizers keep within 10.0 GB of memory and 60.0 min" in text and "big is the best" in text


@pytest.mark.parametrize(("text", "size"), [("8GB", 8e9), ("512 MiB", 2**29), ("1.5gb", 1.5e9), ("100B", 100)])
def test_sizes(text: str, size: float):
    assert parse_memory(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200), ("90s", 90), ("30 min", 1800), ("0.5d", 43200)])
def test_times(text: str, seconds: float):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "GB", "-1GB", "0GB", "8 potatoes", "1e3GB", "nanGB", "8GB8GB"])
def test_what_is_no_size_is_named(text: str):
    with pytest.raises(UsageError, match=r"--max-memory .*: allowed is a number above 0 with one of B, kB, MB"):
        parse_memory(text)


def test_memory_that_was_not_measured_fits_no_limit(write_study: Write):
    study = write_study({"a": BIG, "b": SMALL}, memory=MemoryUse())
    text, fits = said(Analysis(study), Limits(memory=8e9))
    assert "0 of 2 optimizers" in text and set(fits.values()) == {"no"}
    (_, grid) = section(Analysis(study), Limits(memory=8e9)).blocks
    assert isinstance(grid, Table) and {row[2].text for row in grid.rows} == {"–"}


def test_where_all_fit_the_answer_is_not_said_again(analysis: Analysis):
    kept = tuple(r for r in analysis.study.records if r.optimizer != "gone")
    text, _ = said(Analysis(replace(analysis.study, records=kept)), Limits(memory=1e12))
    assert text.startswith("3 of 3 optimizers keep") and text.endswith("So what was said of all holds here too.")

"""The pages of docs/: their commands run as printed, on the files that they show."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "adding-an-optimizer.md").read_text()
DATA_PAGE = (DOCS / "data.md").read_text()


def blocks(language, page=PAGE):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [content for name, content in fenced if name == language]


def commands():
    return [line for block in blocks("") for line in block.splitlines() if line.startswith("bench ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's file: class and spec."""
    path = tmp_path_factory.mktemp("docs")
    (path / "my_lion.py").write_text("\n".join(blocks("python")))
    return path


def test_an_optimizer_takes_less_than_twenty_lines():
    assert sum(bool(line.strip()) for line in blocks("python")[0].splitlines()) < 20


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page_works(command, folder, tiny_toml):
    arguments = shlex.split(command)[1:]
    if arguments[-1] == "my_lion.py:SPEC":  # the same examination a second time: on a small network
        arguments += ["--protocol", str(tiny_toml)]
    done = subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=folder, capture_output=True, text=True,
                          timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    if arguments[0] == "doctor":
        assert "broken" not in done.stdout
        assert re.search(r"\d+ contracts, \d+ kept", done.stdout)
    else:
        assert "my_lion.py:Lion" in done.stdout


def test_the_page_has_commands():
    assert [shlex.split(command)[1] for command in commands()] == ["doctor", "run", "doctor"]


@pytest.mark.slow
def test_the_dataset_of_ones_own_runs_as_printed(tmp_path):
    """Module, protocol and command of docs/data.md, in the current folder."""
    part = DATA_PAGE.partition("### A dataset of your own")[2].partition("\n## ")[0]
    (module,), (protocol,), (command,) = (blocks(language, part) for language in ("python", "toml", ""))
    (tmp_path / "my_data.py").write_text(module)
    (tmp_path / "own.toml").write_text(protocol)
    program, *arguments = shlex.split(command)
    assert program == "bench"
    done = subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=tmp_path, capture_output=True, text=True,
                          timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 optimizers × 2 seeds × 5 epochs = 4 runs, 0 done, 4 to do" in done.stderr
    assert len(list((tmp_path / "results" / "own" / "runs").glob("*/run.json"))) == 4


def test_the_page_on_data_names_every_option_of_a_sample():
    from bench.workloads import WORKLOADS

    options = {key for each in WORKLOADS.values() if "kind" in each.dataset_options for key in each.dataset_options}
    table = DATA_PAGE.partition("## How samples are made")[2].partition("\n\n**")[0]
    assert {key for key in options if f"`{key}`" not in table} == set()

"""The pages of docs/: their commands run as printed, on the files that they show."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "adding-an-optimizer.md").read_text()


def blocks(language):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
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

"""docs/ci.md and the workflow beside it: their commands parse, and the JSON is as described."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from bench.check.check import check
from bench.cli import cli

DOCS = Path(__file__).parents[2] / "docs"
PAGE, WORKFLOW = (DOCS / "ci.md").read_text(), (DOCS / "ci" / "optimizer-check.yml").read_text()
COMMANDS = re.findall(r"^(?: *| *- run: | *run: )(bench .*)$", PAGE + WORKFLOW, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_one_that_bench_takes(line):
    command: click.Command = cli
    arguments = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    command.make_context("bench", arguments)  # raises where an option is not there or a value is not allowed


def test_the_commands_are_found():
    assert len(COMMANDS) == 11
    jobs = yaml.safe_load(WORKFLOW)["jobs"]
    assert {
        name: [step["run"] for step in job["steps"] if "bench" in step.get("run", "")] for name, job in jobs.items()
    }


def test_json_has_the_keys_that_the_page_names(hand):
    content = check(hand.snapshot(), hand.snapshot()).to_json()
    gate = next(gate for gate in content["gates"] if gate["name"] == "level")
    described = PAGE[PAGE.index("The JSON has") :]
    for keys in (content, content["baseline"], gate, gate["cases"][0], gate["cases"][0]["figures"]):
        for key in keys:
            assert f"`{key}`" in described

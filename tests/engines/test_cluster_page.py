"""docs/cluster.md: what its commands and files say exists."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from bench.commands.run import run_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [content for name, content in fenced if name == language]


def commands(program: str) -> list[str]:
    """The command lines of the page that begin with `program`, up to where another one begins."""
    lines = "\n".join([*blocks(""), *blocks("bash"), *blocks("yaml")]).replace("\\\n", " ")
    return re.findall(rf"(?m)(?:^|: |-- ) *({program} .*?)(?: -- |$)", re.sub(r"(?m)^srun \S+ +", "", lines))


def options(command: str) -> set[str]:
    return set(re.findall(r"(?<=\s)--[a-z][a-z-]*", command))


def test_bench_has_the_options_of_the_page():
    known = {name for parameter in run_command.params for name in parameter.opts}
    found = commands("bench run")
    assert len(found) == 5
    for command in found:
        assert options(command) <= known, command
    assert set(re.findall(r"(?m)^\| `(--[a-z]+)", PAGE)) <= known


def test_ray_has_the_commands_and_options_of_the_page():
    cli = pytest.importorskip("ray.scripts.scripts", reason="needs the extra `ray`").cli
    found = commands("ray")
    assert sorted(command.split()[1] for command in found) == ["start", "start", "stop", "symmetric-run"]
    known = {name: {option for parameter in command.params for option in parameter.opts}
             for name, command in cli.commands.items()}  # fmt: skip
    known["symmetric-run"] |= known["start"]
    for command in found:
        assert options(command) <= known[command.split()[1]], command
    assert "ray get-auth-token --generate" in PAGE and "--generate" in known["get-auth-token"]


def test_the_batch_script_is_one():
    (script,) = blocks("bash")
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, timeout=10).stderr == ""


def test_the_job_and_its_image_agree():
    (text,), (image,) = blocks("yaml"), blocks("dockerfile")
    cluster = yaml.safe_load(text)["spec"]["rayClusterSpec"]
    workers = cluster["workerGroupSpecs"][0]
    assert cluster["headGroupSpec"]["template"] == workers["template"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
    assert f"FROM rayproject/ray:{cluster['rayVersion']}-py311" in image
    (bound,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["ray"]
    low, high = re.fullmatch(r"ray>=2\.(\d+),<(\d+)", bound).groups()
    version = [int(part) for part in cluster["rayVersion"].split(".")]
    assert [2, int(low)] <= version < [int(high)]

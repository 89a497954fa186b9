"""`--tracker NAME[=TARGET]`."""

import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.plan import Run
from bench.runner import Plan
from bench.trackers import selection
from bench.trackers.selection import TRACKERS, trackers
from bench.trackers.tracker import Tracker, library

OWN = """
from bench.trackers.tracker import Tracker

class Mine(Tracker):
    def __init__(self, target, study):
        self.target, self.study = target, study

class Broken(Tracker):
    def __init__(self, target, study):
        raise RuntimeError("no\\nserver")

NotOne = dict
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


def test_own_class_by_file(own: Path):
    (made,) = trackers([f"{own}:Mine=http://host?a=b"], Path("results/tiny"))
    assert isinstance(made, Tracker)
    assert vars(made)["target"] == "http://host?a=b"
    assert vars(made)["study"] == Path("results/tiny")
    assert made.label == f"--tracker {own}:Mine"


def test_own_class_by_module(own: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(own.parent)])
    (made,) = trackers(["mine:Mine"], Path("results/tiny"))
    assert vars(made)["target"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wand", "--tracker: unknown tracker 'wand': did you mean 'wandb'? allowed are mlflow, tensorboard, trackio, "
                 "wandb, or module:Class, or file.py:Class"),
        ("", "--tracker '': allowed is NAME or NAME=TARGET, as mlflow, tensorboard, trackio, wandb"),
        ("=x", "--tracker '=x': allowed is NAME or NAME=TARGET"),
        ("wandb=", "--tracker 'wandb=': allowed is NAME or NAME=TARGET"),
        (":Mine", "--tracker ':Mine': allowed are module:Class and file.py:Class"),
        ("FILE:Other", "Other is no subclass of bench.trackers.tracker.Tracker"),
        ("FILE:NotOne", "NotOne is no subclass of bench.trackers.tracker.Tracker"),
        ("FILE:Broken", "RuntimeError: no server"),
        ("nowhere.py:Mine", "cannot import nowhere.py: FileNotFoundError"),
        ("nowhere_at_all:Mine", "cannot import nowhere_at_all: ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(own: Path, text: str, said: str):
    with pytest.raises(UsageError) as error:
        trackers([text.replace("FILE", str(own))], Path("results/tiny"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_missing_library_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, name, None)  # what Python does for a module that must not be imported
    with pytest.raises(UsageError) as error:
        trackers([name], Path("results/tiny"))
    assert str(error.value) == f"--tracker {name}: needs the extra: pip install 'optimizer-bench[{name}]'"


def test_a_folder_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "folder_of_runs").mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(UsageError, match="--tracker wandb: needs the extra"):
        library("folder_of_runs", "wandb")


def test_every_built_in_tracker_has_its_extra():
    content = tomllib.loads((Path(selection.__file__).parents[2] / "pyproject.toml").read_text())
    assert set(TRACKERS) <= set(content["project"]["optional-dependencies"])


def test_the_page_has_a_tracker_that_works(plan: Plan, tmp_path: Path, tell: Callable[[Tracker, Sequence[Run]], None]):
    page = (Path(selection.__file__).parents[2] / "docs" / "trackers.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "lines.py").write_text(example)
    (tracker,) = trackers([f"{tmp_path}/lines.py:Lines={tmp_path}/progress.txt"], plan.store.path)
    tell(tracker, plan.runs)
    tracker.close()
    name = plan.runs[0].run_id
    told = [line for line in (tmp_path / "progress.txt").read_text().splitlines() if line.startswith(name)]
    assert told == [f"{name} has begun, or goes on", f"{name} 1 1.0", f"{name} 2 0.5", f"{name} ok {{'avg_r1': 20.0}}"]

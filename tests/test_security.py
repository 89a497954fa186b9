"""What comes from somebody else's results folder is data: it names no code, leads nowhere, and is shown, not obeyed."""

import ast
import csv
import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unicodedata import category
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bench.check.baseline import write_baseline
from bench.check.snapshot import snapshot
from bench.checkpoint import Checkpoints
from bench.errors import BadRecordError, StorageError, UsageError
from bench.plan import TUNING_SEEDS, Run, ended, slug
from bench.protocol import Protocol
from bench.protocols import changed
from bench.races import read_race
from bench.record import CurvePoint, Environment, Failure, Outcome, RunRecord, Seconds
from bench.reporting.spreadsheet import FORMULA_SIGNS
from bench.requests import write_request
from bench.search.plan import Range, SearchPlan, Tuned, write_plan
from bench.store import Store, study_name
from bench.study import load_study
from bench.study_log import StudyLog
from bench.terminal import say, screen

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [path for folder in ("bench", "optimizers", "models", "datasets")
           for path in sorted((ROOT / folder).rglob("*.py"))]  # fmt: skip
NAMES = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its function as it is written: `torch.load`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def callers(pattern: str) -> set[str]:
    """The sources that call a function whose name, as it is written there, is of the pattern."""
    return {name for name, tree in NAMES.items() for function, _ in called(tree) if re.fullmatch(pattern, function)}


def importers(*modules: str) -> set[str]:
    found = set()
    for name, tree in NAMES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(one.partition(".")[0] in modules for one in names):
                found.add(name)
    return found


def test_no_source_reads_what_can_hold_code():
    """The contracts pickle an optimizer and read back these very bytes; nothing else knows pickles."""
    serializers = ("pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml", "jsonpickle")
    assert importers(*serializers) <= {"bench/contracts/numerics.py", "bench/contracts/state.py"}
    assert callers(r"pickle\.(loads?|Unpickler)") == {"bench/contracts/state.py"}
    assert not callers(r"eval|exec|.*\bread_pickle|(np|numpy|torch\.jit|torch\.hub)\.load|os\.(system|popen|exec.*)")
    for name, tree in NAMES.items():
        for function, call in called(tree):
            if function == "torch.load":
                assert {word.arg: ast.unparse(word.value) for word in call.keywords}["weights_only"] == "True", name


def test_few_sources_import_by_name_or_start_processes():
    """One more of them needs a look at where its names come from: never from a results folder."""
    ways = "import_module|spec_from_file_location|exec_module|__import__|run_path|run_module"
    importing = rf"(.*\.)?({ways})|resolve|load_reference"
    assert callers(importing) == {
        "bench/__init__.py", "bench/engines/ray.py", "bench/engines/ray_actor.py", "bench/registry.py",
        "bench/schemas.py", "bench/spec.py", "bench/telemetry.py", "bench/trackers/selection.py",
        "bench/trackers/tracker.py", "bench/workload.py", "datasets/own_dataset.py", "models/tower_sources.py",
        "models/towers.py",
    }  # fmt: skip
    assert importers("subprocess", "pty", "multiprocessing") == {"bench/engines/local.py", "bench/environment.py"}
    assert not [name for name, tree in NAMES.items() for _, call in called(tree)
                if any(word.arg == "shell" for word in call.keywords)]  # fmt: skip
    assert importers("markupsafe") == {"bench/reporting/html.py"}
    assert callers(r"ElementTree\.(parse|fromstring)|ET\.(parse|fromstring)") == {"bench/reporting/inline_svg.py"}


def test_pretrained_networks_come_from_files_and_bring_no_code():
    """Whatever looks a name up on a hub has one caller, which gives it a folder and leaves the folder's code alone."""
    words = {(function, name): {word.arg: ast.unparse(word.value) for word in call.keywords}
             for name, tree in NAMES.items() for function, call in called(tree)
             if re.search(r"(from_pretrained|create_model|get_model|from_config|hub\.\w+)$", function)}  # fmt: skip
    loaders = [f"transformers.{kind}.from_pretrained" for kind in ("AutoConfig", "AutoModel")]
    names = [*loaders, "timm.create_model", "models.get_model"]
    assert set(words) == {(function, "models/tower_sources.py") for function in names}
    by_function = {function: given for (function, _), given in words.items()}
    assert by_function["transformers.AutoModel.from_pretrained"]["weights_only"] == "True"
    for loader in loaders:
        assert by_function[loader]["trust_remote_code"] == "False"
        assert by_function[loader][None] == "where"  # the folder, and local files only
    assert by_function["timm.create_model"]["pretrained"] == "False"
    assert by_function["models.get_model"]["weights"] == "None"
    assert not [name for name, tree in NAMES.items() for _, call in called(tree) for word in call.keywords
                if word.arg == "trust_remote_code" and ast.unparse(word.value) != "False"]  # fmt: skip


@pytest.fixture
def bench(bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command in this process, in a folder that modules are also imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    return bench


class Marker:
    """A module that leaves a file behind when it is imported, and everything in a study that names it."""

    MODULE = "poison_of_a_study"

    def __init__(self, folder: Path) -> None:
        self.file, self.module = folder / "marker", folder / f"{self.MODULE}.py"
        self.module.write_text(
            f"import pathlib\npathlib.Path({str(self.file)!r}).touch()\nfrom torch.optim import SGD as Evil\n"
            "ROLES = ((r'.', 'head'),)\n"
        )

    def __reduce__(self) -> tuple:
        """Pickled, it makes the file when it is read."""
        return os.mkdir, (str(self.file),)

    @property
    def references(self) -> list[str]:
        return [f"{self.MODULE}:Evil", f"{self.module}:Evil", f"{self.module.name}:Evil", "os:system"]

    def require_untouched(self) -> None:
        assert not self.file.exists() and self.MODULE not in sys.modules
        assert not any(name.startswith("bench_plugin_") for name in sys.modules
                       if str(self.module) == getattr(sys.modules[name], "__file__", ""))  # fmt: skip


@pytest.fixture
def marker(tmp_path: Path) -> Marker:
    return Marker(tmp_path)


def store_run(store: Store, run: Run, score: float, points: int = 2, **changes) -> RunRecord:
    """A run that ended, under a protocol that is there."""
    store.write_protocol(run.protocol)
    metrics = {"avg_r1": score}
    values = {
        "metrics": metrics, "validation_metrics": metrics, "chance": {"avg_r1": 1.0}, "ceiling": {"avg_r1": 90.0},
        "loss": 1.5, "epochs": 2, "steps": 20, "seconds": Seconds(training=5.0, total=10.0),
        "finished": "2026-01-01T00:00:00+00:00", **changes,
    }  # fmt: skip
    record = ended(run, Outcome.OK, None, "bench run").model_copy(update=values)
    store.start_curve(run.run_id, [
        CurvePoint(epoch=e, step=10 * e, samples=80 * e, loss=2.0, pair_losses={}, gradient_norm=1.0, update_ratio=0.1,
                   learning_rate=0.1, metrics=metrics, seconds=Seconds(training=e), peak_bytes=1)
        for e in range(1, points + 1)
    ])  # fmt: skip
    store.write_record(record)
    return record


def make_run(protocol: Protocol, optimizer: str, seed: int) -> Run:
    return Run(protocol=protocol, optimizer=optimizer, reference=optimizer, hyperparameters={"lr": 0.1}, seed=seed)


def make_plan(protocol: Protocol, optimizer: str) -> SearchPlan:
    tuned = Tuned(hyperparameters={"lr": 0.3, "foreach": optimizer}, values={"lr": 0.3}, validation=12.5,
                  unresolved=True, trials=1, extra_trials=0)  # fmt: skip
    return SearchPlan(
        protocol_hash=protocol.hash, optimizer=optimizer, defaults={"lr": 0.1}, trials=1, seeds=(TUNING_SEEDS,),
        ranges={"lr": Range(low=1e-3, high=1.0, log=True)}, sampler="sobol", tuned=tuned,
    )  # fmt: skip


def poisoned(protocol: Protocol, reference: str) -> Protocol:
    workload = protocol.workload.model_copy(update={"dataset": reference, "model": reference})
    return protocol.model_copy(update={"workload": workload, "name": reference})


def write_pickle(folder: Path, content: object) -> None:
    """A checkpoint with a true digest."""
    data = pickle.dumps(content)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint-000000010.pt"
    path.write_bytes(data)
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")


def write_poisoned_study(path: Path, protocol: Protocol, marker: Marker) -> Store:
    """Every kind of file, and in each of them every name is a reference to code."""
    store, rules = Store(path), poisoned(protocol, marker.references[0])
    for seed in (0, 1, 2):
        for i, reference in enumerate(marker.references):
            store_run(store, make_run(rules, reference, seed), 10.0 + i + seed)
    for reference in marker.references:
        plan = make_plan(rules, reference)
        rate = plan.search(rules).ask()[0].values["lr"]
        trial = make_run(rules, reference, TUNING_SEEDS).model_copy(update={"hyperparameters": {"lr": rate}})
        store_run(store, trial, 20.0)
        write_plan(path, plan)
    runs = [make_run(rules, reference, seed) for reference in marker.references for seed in (0, 1, 2, 3)]
    write_request(store, runs, f"bench run --optimizers {marker.references[0]}", race=True)
    write_pickle(store.run_dir(runs[3].run_id), marker)
    store.start_curve(runs[3].run_id)
    store.mark_used(rules)
    (path / "runs" / "conftest.py").write_text(marker.module.read_text())
    return store


READERS = [
    ("report", "poisoned"),
    ("report", "poisoned", "--json"),
    ("compare", "poisoned", "other"),
    ("status", "poisoned"),
    ("list", "studies"),
    ("power", "poisoned"),
    ("check", "poisoned", "--baseline", "other"),
    ("check", "poisoned", "--baseline", "baseline.json", "--junit", "junit.xml", "--github"),
    ("baseline", "update", "poisoned", "--output", "new.json"),
    ("merge", "poisoned", "other", "--into", "both"),
    ("clean", "poisoned", "--stopped", "--yes"),
    ("export-optuna", "poisoned", "--storage", "sqlite:///trials.db"),
]


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_no_command_imports_what_a_study_names(
    arguments: tuple[str, ...], tiny: Protocol, marker: Marker, bench: Callable, tmp_path: Path
):
    store = write_poisoned_study(tmp_path / "results" / "poisoned", tiny, marker)
    write_poisoned_study(tmp_path / "results" / "other", tiny, marker)
    write_baseline(snapshot(load_study(store.path)[0]), tmp_path / "baseline.json")
    found = bench(*arguments)
    assert found.code in (0, 1), found.err
    marker.require_untouched()


def test_a_check_runs_no_code_that_a_baseline_names(tiny: Protocol, marker: Marker, bench: Callable, tmp_path: Path):
    foreign = Store(tmp_path / "results" / "foreign")
    tower = {"source": "callable", "reference": marker.references[1], "arguments": {}}
    towers = {"model": "bench.models.towers:TowerNetwork", "model_reads_files": True,
              "model_options": {"towers": {"text": tower, "image": tower}, "width": 8}}  # fmt: skip
    own = {"workload": towers, "name": "tower"}
    cases = {"network": poisoned(tiny, marker.references[0]), "optimizer": tiny, "tower": changed(tiny, own, "test")}
    for name, rules in cases.items():
        store_run(foreign, make_run(rules, marker.references[1], 0), 10.0)
        write_baseline(snapshot(load_study(foreign.path, rules.hash)[0]), tmp_path / f"{name}.json")
        found = bench("check", "--run", "--baseline", f"{name}.json")
        assert found.code == 2 and "never asked to name code" in " ".join(found.err.split())
    marker.require_untouched()


@pytest.mark.slow
def test_a_study_goes_on_in_a_poisoned_folder(
    tiny: Protocol, tiny_toml: Path, marker: Marker, bench: Callable, tmp_path: Path
):
    """Tuned settings, checkpoints and broken records that somebody left there; the run itself is the user's."""
    ask = ("--protocol", tiny_toml, "--study", "poisoned", "--optimizers", "sgd", "--workers", 1)
    planned = json.loads(bench("run", *ask, "--seeds", 1, "--dry-run", "--json").out)
    store = write_poisoned_study(tmp_path / "results" / "poisoned", tiny, marker)
    folder = store.run_dir(planned[0]["run_id"])
    write_pickle(folder, marker)
    (folder / "run.json").write_bytes(pickle.dumps(marker))
    assert bench("run", *ask, "--seeds", 1).code == 0
    assert store.read_record(planned[0]["run_id"]).outcome == "ok"
    assert bench("tune", *ask, "--trials", 1, "--tuning-seeds", 1).code == 0
    assert bench("report", "poisoned").code in (0, 2)
    marker.require_untouched()


def test_no_checkpoint_is_unpickled(marker: Marker, tmp_path: Path):
    write_pickle(tmp_path / "run", marker)
    assert Checkpoints(tmp_path / "run").read() is None
    write_pickle(tmp_path / "run", {"model": marker, "step": 10})
    assert Checkpoints(tmp_path / "run").read() is None
    marker.require_untouched()


@settings(max_examples=300, deadline=None)
@given(name=st.text(max_size=120))
@example(name="../../etc/passwd")
@example(name="/etc/passwd")
@example(name="..")
@example(name="a\nb\x00\x1b[31m")
@example(name="-rf")
def test_a_run_id_is_one_plain_name(name: str, tiny: Protocol):
    """Whatever an optimizer is called."""
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}", slug(name))
    run_id = make_run(tiny, name.encode(errors="replace").decode(), 0).run_id
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*-s0-[0-9a-f]{12}", run_id)
    folder = Store(Path("/results/one")).run_dir(run_id)
    assert Path(os.path.normpath(folder)) == folder and folder.parent == Path("/results/one/runs")


OUTSIDE = ["../../outside", "/etc/passwd", "..", "a/b", "a\n", "\x1b[31m", "", "." * 12, "0" * 12 + "\n"]


@pytest.mark.parametrize("text", OUTSIDE)
def test_no_name_leads_out_of_the_results(text: str, tiny: Protocol, tmp_path: Path):
    with pytest.raises(UsageError, match="study"):
        study_name(text)
    outside = tmp_path / "outside.json"
    outside.write_text(tiny.model_dump_json())
    for read in (Store(tmp_path / "a" / "b").read_protocol, lambda text: read_race(tmp_path / "a" / "b", text)):
        with pytest.raises(BadRecordError, match="12 hexadecimal digits") as caught:
            read(text)
        assert "workload" not in str(caught.value)


@pytest.mark.parametrize("claimed", ["../../../secret", "/etc", "sgd-s0-000000000000", "\x1b]0;x\x07", "a\nb"])
def test_a_record_belongs_to_its_folder(claimed: str, tiny: Protocol, bench: Callable, tmp_path: Path):
    store = Store(tmp_path / "results" / "one")
    good, run = make_run(tiny, "adamw", 0), make_run(tiny, "sgd", 0)
    store_run(store, good, 10.0)
    record = store_run(store, run, 10.0)
    store.write_record(record.model_copy(update={"run_id": claimed}))
    written = store.run_dir(claimed) / "run.json"
    written.replace(store.run_dir(run.run_id) / "run.json")
    with pytest.raises(BadRecordError, match="in the folder of another run"):
        store.read_record(run.run_id)
    assert [r.run_id for r in store.records()[0]] == [good.run_id]
    assert json.loads(bench("status", "one", "--json").out)["totals"]["unreadable"] == 1
    assert bench("report", "one").code == 2
    assert bench("merge", "one", "--into", "two").code == 1
    assert [path.name for path in (tmp_path / "results" / "two" / "runs").iterdir()] == [good.run_id]


@pytest.mark.parametrize("link", ["run", "lock", "log"])
def test_no_run_is_written_through_a_link(link: str, tiny: Protocol, tmp_path: Path):
    store, run, outside = Store(tmp_path / "one"), make_run(tiny, "sgd", 0), tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (outside / ".x.tmp").write_text("mine")
    folder = store.run_dir(run.run_id)
    links = {
        "run": (folder, outside),
        "lock": (folder / ".lock", outside / "mine"),
        "log": (store.path / "logs" / "study.log", outside / "mine"),
    }
    place, target = links[link]
    place.parent.mkdir(parents=True)
    place.symlink_to(target)
    StudyLog(store.path, "avg_r1").note("begins")
    if link != "log":
        with pytest.raises(StorageError, match="link"), store.claim(run.run_id):
            pass
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"mine": "mine", ".x.tmp": "mine"}


HOSTILE = (
    "\x1b[31mred\x1b]0;title\x07", "a\r\nb\u2028c", "\u202eabc\u2066", "|a|b|", "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>", "=cmd|' /C calc'!A0", "@SUM(1)", "[red]x[/red]", "[/]", "\\input{x}$&#_{}%^~",
    "${{ 7 * 7 }}{% raw %}", "[a](javascript:b) ![c](d)", "`x` **y**", "\x00\x9b31m", "::error::x", "]]>",
)  # fmt: skip
STEERS = re.compile("[\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def steering(text: str) -> list[str]:
    """Signs that a terminal, or whatever shows the text, would obey."""
    return [sign for sign in text if (category(sign) == "Cc" and sign not in "\n\t") or STEERS.match(sign)]


def write_hostile_study(path: Path, protocol: Protocol, names: Sequence[str] = HOSTILE) -> Store:
    """An optimizer a name on three seeds, one failing, a search, a request; texts wherever a file holds any."""
    text = " ".join(names)
    rules = changed(protocol, {"name": text, "title": text, "workload": {"name": text, "title": text}}, "test")
    place = Environment(versions={text: text, "torch": "2.11"}, device=text, processor=text, cores=2, threads=1,
                        driver=text, git_commit=text)  # fmt: skip
    store = Store(path)
    for seed in (0, 1, 2):
        for i, name in enumerate(names):
            run = make_run(rules, name, seed).model_copy(update={"hyperparameters": {"lr": 0.1, name: text}})
            store_run(store, run, 3.0 * i + seed, environment=place, command=text)
        failure = Failure(reason=text, epoch=1, step=3, traceback=text)
        store_run(store, make_run(rules, f"failed {names[0]}", seed), 1.0, outcome=Outcome.DIVERGED, failure=failure,
                  metrics={}, command=text)  # fmt: skip
    store_run(store, make_run(rules, names[0], TUNING_SEEDS), 20.0)
    write_plan(path, make_plan(rules, names[0]))
    write_request(store, [make_run(rules, name, seed) for seed in range(5) for name in names], text)
    return store


class Page(HTMLParser):
    """The elements of a page that act, and its attributes that do."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.acting: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        own = tag == "img" and dict(attrs)["src"].startswith("figures/")
        if tag in ("script", "img", "iframe", "object", "embed", "form", "base", "foreignobject") and not own:
            self.acting.append(tag)
        self.acting += [name for name, value in attrs if name.startswith("on") or
                        (name in ("href", "src", "action", "data") and "script:" in (value or ""))]  # fmt: skip


def shown_markdown(path: Path) -> str:
    """The file as a page, raw HTML included."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(path.read_text())


SHOWING = [
    ("report", "hostile"),
    ("status", "hostile"),
    ("compare", "hostile", "other"),
    ("list", "studies"),
    ("power", "hostile"),
    ("check", "hostile", "--baseline", "other"),
    ("baseline", "update", "hostile", "--output", "new.json"),
    ("merge", "hostile", "other", "--into", "both"),
    ("clean", "hostile"),
    ("export-optuna", "hostile", "--storage", "sqlite:///trials.db"),
]


def test_no_text_of_a_study_steers_a_terminal(tiny: Protocol, bench: Callable, tmp_path: Path):
    store = write_hostile_study(tmp_path / "results" / "hostile", tiny)
    write_hostile_study(tmp_path / "results" / "other", tiny)
    (store.path / "runs" / "x\x1b[31m").mkdir()
    (store.path / "runs" / "x\x1b[31m" / "run.json").write_text("{")
    for arguments in SHOWING:
        found = bench(*arguments)
        assert found.code in (0, 1, 2), arguments
        assert not steering(found.out) and not steering(found.err), arguments
        assert "Traceback" not in found.err


@pytest.mark.slow
def test_no_text_of_a_study_acts_in_a_report(tiny: Protocol, bench: Callable, tmp_path: Path):
    write_hostile_study(tmp_path / "results" / "hostile", tiny)
    found = bench("report", "hostile", "--json")
    assert found.code == 0 and json.loads(found.out) and not steering(found.out)
    folder = tmp_path / "reports" / "hostile"
    assert Page((folder / "report.html").read_text()).acting == ["script"]
    assert not Page(shown_markdown(folder / "report.md")).acting
    for path in (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".png"):
        require_harmless(path)


def require_harmless(path: Path) -> None:
    """A file of a report: text without signs that steer, cells without formulas, TeX and SVG that only draw."""
    content = path.read_text()
    assert not steering(content), path
    if path.suffix == ".csv":
        cells = [cell for row in csv.reader(io.StringIO(content)) for cell in row]
        assert not [cell for cell in cells if cell.startswith(FORMULA_SIGNS) and not is_number(cell)], path
    if path.suffix == ".tex":
        assert "\\input{" not in content, path
    if path.suffix == ".svg":
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(content).iter()}
        assert not tags & {"script", "image", "foreignObject", "a"}, path


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_no_text_of_a_study_acts_in_a_check(tiny: Protocol, bench: Callable, tmp_path: Path, monkeypatch):
    """JUnit is XML, and every line that GitHub takes for a command is the check's own."""
    names = [text for text in HOSTILE if text.isprintable()]  # of others there is no snapshot
    write_hostile_study(tmp_path / "results" / "hostile", tiny, names)
    write_hostile_study(tmp_path / "results" / "other", tiny, names)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    found = bench("check", "hostile", "--baseline", "other", "--github", "--junit", "junit.xml")
    assert found.code in (0, 1), found.err
    ElementTree.parse(tmp_path / "junit.xml")
    assert not Page(shown_markdown(tmp_path / "summary.md")).acting
    fenced = re.sub(r"(?s)::stop-commands::(\w+)\n.*\n::\1::\n", "", found.out)
    assert all(line.startswith(("::error title=bench check", "::warning title=bench check"))
               for line in fenced.splitlines() if line.strip())  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
@example(text="\x1b[31m\ud800\u202e\r")
def test_whatever_is_said_steers_nothing(text: str, tmp_path_factory: pytest.TempPathFactory):
    from rich.table import Table
    from rich.text import Text

    shown = screen()
    shown.file = io.StringIO()
    table = Table(box=None)
    table.add_column(Text(text))
    table.add_row(Text(text))
    shown.print(table, Text(text))
    assert not steering(shown.file.getvalue())
    study = tmp_path_factory.mktemp("log")
    StudyLog(study, "avg_r1").note(text)
    lines = (study / "logs" / "study.log").read_text().splitlines()
    assert len(lines) == 1 and not steering(lines[0])


def test_a_line_is_said_without_control_signs(capsys: pytest.CaptureFixture[str]):
    say("a\x1b[31mb\ud800\u202ec")
    say("x\x07y", err=True)
    assert capsys.readouterr() == ("a\ufffd[31mb\ufffd\ufffdc\n", "x\ufffdy\n")


@contextmanager
def advisories(of: str | None) -> Iterator[str]:
    """The address of a service like osv.dev that knows one advisory, of the package `of`."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            package = {"name": asked["package"]["name"], "ecosystem": "PyPI"}
            events = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999"}]}
            affected = [{"package": package, "ranges": [events], "versions": [asked["version"]]}]
            known = {"id": "PYSEC-0-1", "summary": "x", "details": "x", "affected": affected}
            body = json.dumps({"vulns": [known]} if package["name"].lower() == of else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(service: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OSV_URL": service, "NO_PROXY": "127.0.0.1"}
    return subprocess.run([sys.executable, ROOT / ".ci" / "audit.py"], capture_output=True, text=True, timeout=120,
                          env=environment)  # fmt: skip


def test_an_audit_that_can_ask_nobody_says_so_in_one_line():
    done = audit("http://127.0.0.1:9/v1/query")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch("pip-audit: skipped, .*cannot be asked.*\n", done.stdout)


@pytest.mark.parametrize(("of", "code"), [(None, 0), ("jinja2", 1)])
def test_an_audit_fails_where_something_is_known(of: str | None, code: int):
    pytest.importorskip("pip_audit", reason="pip-audit is not installed")
    with advisories(of) as service:
        done = audit(service)
    assert done.returncode == code, done.stderr
    assert ("PYSEC-0-1" in done.stdout) == (of is not None)

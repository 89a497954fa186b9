"""The command as a user types it: bad input, exit codes, what is written, start-up."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def call(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {k: v for k, v in os.environ.items() if k != "BENCH_DATA"}
    return subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=cwd, env=base | environment,
                          capture_output=True, text=True, timeout=240)  # fmt: skip


BAD_INPUT = [
    (["run", "-o", "adamm"], "unknown optimizer 'adamm': did you mean 'adam'?"),
    (["run", "-o", "zzz*"], "optimizer pattern 'zzz*' matches none of sgd, adam"),
    (["run", "-o", ""], "no optimizers given"),
    (["run", "-o", "json:dumps"], "dumps is a function and no optimizer"),
    (["run", "-o", "json:JSONDecoder"], "JSONDecoder is a type and no optimizer"),
    (["run", "-o", "torch.optim:AdamWW"], "unknown class 'AdamWW': did you mean 'AdamW'?"),
    (["run", "-o", "no_such_module:Thing"], "cannot import module 'no_such_module'"),
    (["run", "-o", "missing.py:Thing"], "cannot read missing.py: No such file or directory"),
    (["run", "--epochs", "0"], "--epochs 0: epochs is 0: Input should be greater than or equal to 1"),
    (["run", "--epochs", "x"], "'x' is not a valid integer"),
    (["run", "--seeds", "0"], "--seeds '0': allowed are"),
    (["run", "--workers", "0"], "--workers 0: allowed is a count >= 1"),
    (["run", "--device", "tpu"], "--device 'tpu': allowed here are cpu"),
    (["run", "-o", "adamw", "-O", "adamw.lr=-1"], "optimizer adamw: lr is -1; allowed is a finite number >= 0"),
    (["run", "-o", "adamw", "-O", "adamw.lr=fast"], "lr is 'fast'"),
    (["run", "-o", "adamw", "-O", "adamw.lr=NaN"], "lr is nan"),
    (["run", "-o", "adamw", "-O", "adamw.momentum=1"], "unknown hyper-parameter 'momentum'"),
    (["run", "-o", "adamw", "-O", "adamw.betas=[2,0]"], "Invalid beta parameter at index 0: 2"),
    (["run", "-o", "gda2", "-O", "gda2.history_size=-3"], "history_size"),
    (["run", "-o", "sgd", "-O", "adamw.lr=1"], "-O adamw: that optimizer is not selected; selected are sgd"),
    (["run", "-O", "adamw"], "-O 'adamw': allowed is NAME.KEY=VALUE"),
    (["run", "-p", "minni"], "unknown protocol 'minni': did you mean 'mini'?"),
    (["run", "-p", "none.toml"], "'none.toml' does not exist"),
    (["run", "-p", "broken.toml"], "'broken.toml' is not readable TOML"),
    (["run", "-p", "key.toml"], "'key.toml': epoch is 3: Extra inputs are not permitted"),
    (["run", "-p", "option.toml"], "unexpected keyword argument 'latent_dims'"),
    (["run", "-p", "metric.toml"], "unknown primary_metric 'avg_r2': did you mean"),
    (["run", "-p", "batch.toml"], "batch_size is 5000; allowed is at most the 1000 training samples"),
    (["run", "-p", "fit.toml"], "network and data do not fit"),
    (["run", "-p", "heads.toml"], "model_options: embed_dim must be divisible by num_heads"),
    (["run", "-p", "settings.toml"], "protocol's settings: unknown optimizer 'sgdd': did you mean 'sgd'?"),
    (["run", "-p", "digits"], "--data-dir"),
    (["run", "-p", "digits", "--data-dir", "nowhere"], "nowhere"),
    (["run", "--study", "../out"], "study '../out': allowed are letters"),
    (["run", "--lr", "best"], "'best' is not one of"),
    (["run", "--results", "key.toml"], "key.toml"),
    (["report"], "no study in results"),
    (["report", "none"], "no finished runs in results/none"),
    (["list", "things"], "'things' is not one of"),
    (["rum"], "No such command 'rum'"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "broken.toml").write_text("epochs = ")
    (tmp_path / "key.toml").write_text("epoch = 3")
    (tmp_path / "option.toml").write_text('extends = "mini"\n[workload.model_options]\nlatent_dims = 3')
    (tmp_path / "fit.toml").write_text('extends = "mini"\n[workload.model_options]\nimage_size = 64')
    (tmp_path / "heads.toml").write_text('extends = "mini"\n[workload.model_options]\nnum_heads = 5')
    (tmp_path / "metric.toml").write_text('extends = "mini"\nprimary_metric = "avg_r2"')
    (tmp_path / "settings.toml").write_text('extends = "mini"\n[settings.sgdd]\nnesterov = true')
    (tmp_path / "batch.toml").write_text('extends = "mini"\nbatch_size = 5000')
    return tmp_path


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT, ids=[" ".join(a) for a, _ in BAD_INPUT])
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    arguments: list[str],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    from bench.cli import main

    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("BENCH_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert message in output.err
    assert len(output.err.splitlines()) == 1
    assert output.out == ""
    assert sorted(folder.rglob("*")) == before


def test_whole_way_from_run_to_report(tiny_toml: Path, tmp_path: Path):
    arguments = ["run", "-o", "sgd,adamw,custom_adam", "-p", str(tiny_toml), "--seeds", "2"]
    first = call(*arguments, cwd=tmp_path, COLUMNS="100")
    assert first.returncode == 0, first.stderr
    assert first.stderr.startswith("protocol tiny (")
    assert "3 optimizers × 2 seeds × 2 epochs = 6 runs, 0 done, 6 to do" in first.stderr
    assert "[6/6]" in first.stderr
    for text in ("adamw", "custom_adam", "chance", "ceiling", "no ranking claim"):
        assert text in first.stdout
    before = {p: p.read_bytes() for p in (tmp_path / "results").rglob("*.json*")}
    assert len(before) == 6 * 2 + 2  # a record and a curve a run, the protocol, and what was asked for
    second = call(*arguments, cwd=tmp_path)
    assert second.returncode == 5
    assert "nothing to do" in second.stderr
    assert {p: p.read_bytes() for p in (tmp_path / "results").rglob("*.json*")} == before
    report = call("report", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    assert report.stdout.split() == ["reports/tiny/report.md", "reports/tiny/report.html"]
    assert "custom_adam" in (tmp_path / "reports" / "tiny" / "report.md").read_text()
    listed = json.loads(call("list", "studies", "--json", cwd=tmp_path).stdout)
    assert [(row["name"], row["runs"], row["optimizers"]) for row in listed] == [("tiny", 6, 3)]


def test_json_goes_to_standard_output_alone(tiny_toml: Path, tmp_path: Path):
    result = call("run", "-o", "sgd", "-p", str(tiny_toml), "--seeds", "1", "--json", cwd=tmp_path)
    (record,) = json.loads(result.stdout)
    assert record["optimizer"] == "sgd"
    assert record["protocol"]["name"] == "tiny"
    for key in ("schema_version", "run_id", "hyperparameters", "seed", "outcome", "metrics", "chance", "ceiling",
                "fingerprints", "seconds", "memory", "environment"):  # fmt: skip
        assert key in record


def test_failed_run_is_exit_1(tiny_toml: Path, tmp_path: Path, write_plugin: Callable[[str], str]):
    plugin = write_plugin("raise RuntimeError('broken')")
    result = call("run", "-o", plugin, "-p", str(tiny_toml), "--seeds", "1", cwd=tmp_path)
    assert result.returncode == 1
    assert "1 runs failed" in result.stderr


def test_dry_run_writes_nothing(tiny_toml: Path, tmp_path: Path):
    result = call("run", "-o", "sgd,adam", "-p", str(tiny_toml), "--dry-run", cwd=tmp_path)
    assert result.returncode == 0
    assert len(result.stdout.split()) == 2 * 2
    assert not (tmp_path / "results").exists()


OWN = """
import torch

class Pairs(torch.utils.data.Dataset):
    def __init__(self, split, size):
        self.size = size
    def __len__(self):
        return 24
    def __getitem__(self, i):
        return {"text": torch.tensor([1, 1 + i]), "image": torch.full((3, self.size, self.size), i / 24)}
"""
OWN_PROTOCOL = """
extends = "mini"
epochs = 1
batch_size = 8
[workload]
dataset = "bench.datasets.own_dataset:OwnDataset"
modalities = ["text", "image"]
[workload.dataset_options]
reference = "pairs_of_mine:Pairs"
arguments = { size = 32 }
text_length = 4
"""


def test_a_protocol_of_ones_own_has_ones_own_dataset(tmp_path: Path):
    (tmp_path / "pairs_of_mine.py").write_text(OWN)
    (tmp_path / "own.toml").write_text(OWN_PROTOCOL)
    result = call("run", "-p", "own.toml", "-o", "sgd", "--seeds", "1", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (record,) = json.loads(result.stdout)
    assert (record["outcome"], record["steps"]) == ("ok", 3)
    assert record["protocol"]["name"] == "own" and record["pools"] == {"text": 24, "image": 24}


@pytest.mark.parametrize(
    "command",
    [("run", "--dry-run"), ("run", "--lr", "search", "--seeds", "1"), ("tune", "--trials", "1")],
    ids=" ".join,
)
def test_what_the_data_remarks_is_shown_before_runs_begin(
    command: tuple[str, ...], tiny_toml: Path, bench: Callable, monkeypatch: pytest.MonkeyPatch
):
    from bench.commands import tune
    from bench.datasets.samples import Dataset

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Dataset, "remarks", ("paired: 3 of 10 clips \x1b[2J are not there",))
    monkeypatch.setattr(tune, "watching", stop)
    found = bench(*command, "-p", tiny_toml, "-o", "sgd")
    assert "warning: paired: 3 of 10 clips \ufffd[2J are not there" in found.err.splitlines()
    assert "\x1b" not in found.err


def test_a_title_steers_no_terminal(tiny_toml: Path, tmp_path: Path, bench: Callable):
    (tmp_path / "odd.toml").write_text('title = "\\u001b[2J"\n' + tiny_toml.read_text())
    found = bench("run", "-p", "odd.toml", "-o", "sgd", "--dry-run")
    assert found.code == 0 and "\ufffd[2J" in found.err and "\x1b" not in found.err
    found = bench("tune", "-p", "odd.toml", "-o", "sgd", "--trials", "1", "--tuning-seeds", "1")
    assert found.code == 0 and "\x1b" not in found.err


def start(toml: Path, folder: Path, workers: int, lines: int) -> subprocess.Popen[str]:
    """A long study, once it has printed that `lines` runs are done."""
    command = [sys.executable, "-m", "bench", "run", "-p", str(toml), "-o", "sgd", "--seeds", "500"]
    process = subprocess.Popen([*command, "--workers", str(workers)], cwd=folder, stderr=subprocess.PIPE, text=True,
                       process_group=0)  # fmt: skip
    assert process.stderr is not None
    while not process.stderr.readline().startswith(f"[{lines}/"):
        assert process.poll() is None
    return process


def test_interrupted_study_keeps_finished_runs_and_goes_on(tiny_toml: Path, tmp_path: Path):
    with start(tiny_toml, tmp_path, workers=1, lines=3) as process:
        os.killpg(process.pid, signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in rest
    assert len(list((tmp_path / "results" / "tiny" / "runs").glob("*/run.json"))) >= 3
    again = call("run", "-p", str(tiny_toml), "-o", "sgd", "--seeds", "3", cwd=tmp_path)
    assert again.returncode == 5


def test_workers_die_with_their_driver(tiny_toml: Path, tmp_path: Path):
    with start(tiny_toml, tmp_path, workers=2, lines=2) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}/exe").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}/exe").exists() for child in children)


def test_list_names_everything(tmp_path: Path):
    result = call("list", "--json", cwd=tmp_path)
    content = json.loads(result.stdout)
    workloads = {row["name"]: row for row in content["workloads"]}
    assert workloads["documents"]["parameters"] == 10_686_592 and not workloads["documents"]["parameters_at_most"]
    # The documents' network on Flickr8k has 34 ids by character; a table of 8,192 byte pairs of width 512 instead.
    assert workloads["flickr8k"]["parameters"] == 43_269_504 and not workloads["flickr8k"]["parameters_at_most"]
    # Rows of 512 weights: 8,192 byte pairs at most instead of 34 characters, 40 places instead of 77.
    assert workloads["flickr8k_bpe"]["parameters"] == 43_269_504 + 512 * (8192 - 34) - 512 * (77 - 40)
    assert workloads["flickr8k_bpe"]["parameters_at_most"]
    assert len(content["optimizers"]) == 29
    names = {row["name"] for row in content["protocols"]}
    assert {"documents", "standard", "mini", "digits", "flickr8k", "flickr8k_audio", "manifest"} <= names
    assert content["studies"] == []


def test_help_does_not_import_torch():
    code = """
import sys
sys.argv = ['bench', '--help']
from bench.cli import main
try:
    main()
except SystemExit:
    pass
assert not {'torch', 'pandas', 'pydantic', 'matplotlib'} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Show, with evidence" in done.stdout

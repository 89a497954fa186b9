"""A whole study on files: 200 drawn images, 1,000 captions and their spoken form, from JPEG and WAV to the report."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_flickr8k import make_flickr8k

from bench.record import RunRecord, read_record

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real")
    make_flickr8k(path / "data" / "flickr8k", (140, 30, 30), size=(120, 160))
    return path


def bench(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=folder, capture_output=True, text=True,
                            timeout=240)  # fmt: skip
    assert result.returncode == code, result.stderr
    return result


def records(folder: Path, study: str) -> dict[str, RunRecord]:
    found = [read_record(path.read_bytes(), path.name) for path in (folder / "results" / study).glob("runs/*/run.json")]
    return {record.optimizer: record for record in found}


@pytest.fixture(scope="module")
def study(folder: Path) -> Path:
    bench(folder, "run", "--protocol", "flickr8k_mini", "-o", "sgd,adamw", "--seeds", "1", "--epochs", "12",
          "--data-dir", "data", "--study", "made")  # fmt: skip
    return folder


def test_images_captions_and_speech_are_retrieved_in_all_directions_on_both_splits(study: Path):
    found = records(study, "made")
    for record in found.values():
        assert record.outcome == "ok" and record.epochs == 12 and record.steps == 12 * (140 // 32)
        assert record.pools == {"text": 150, "image": 30, "audio": 150}
        for metrics in (record.metrics, record.validation_metrics):
            assert {f"{a}2{b}_r{k}" for a in "tia" for b in "tia" if a != b for k in (1, 5, 10)} <= metrics.keys()
        # One image of 30 by chance; from an image, one of its five captions of 150.
        assert record.chance["t2i_r1"] == pytest.approx(100 / 30) == pytest.approx(record.chance["i2t_r1"])
        assert record.chance["t2i_r5"] == pytest.approx(500 / 30) and record.chance["i2t_r5"] < 500 / 30
        assert record.fingerprints is not None and record.fingerprints.data
    assert found["adamw"].metrics["i2t_r5"] > 2 * found["adamw"].chance["i2t_r5"]
    assert found["adamw"].metrics["t2i_r5"] > 2 * found["adamw"].chance["t2i_r5"]


def test_the_report_prints_pools_chance_and_directions(study: Path):
    bench(study, "report", "made")
    page = (study / "reports" / "made" / "report.md").read_text()
    assert "retrieval among the test split's 150 texts, 30 images, 150 clips; averages over I→T, T→I, " in page
    assert "chance: R@1 3.33 %" in page


def test_the_same_command_has_nothing_to_do_and_decodes_nothing(study: Path):
    again = bench(study, "run", "--protocol", "flickr8k_mini", "-o", "sgd,adamw", "--seeds", "1", "--epochs", "12",
                  "--data-dir", "data", "--study", "made", code=5)  # fmt: skip
    assert "nothing to do" in again.stderr and "writing" not in again.stderr


def test_a_limit_gives_a_quick_look_at_any_pair_of_modalities(study: Path):
    (study / "pair.toml").write_text('extends = "flickr8k_mini"\nbatch_size = 8\nepochs = 1\n'
                                     '[workload]\nmodalities = ["image", "audio"]\n')  # fmt: skip
    bench(study, "run", "--protocol", "pair.toml", "-o", "sgd", "--seeds", "1", "--limit", "20", "--data-dir", "data")
    record = records(study, "pair")["sgd"]
    assert record.pools == {"image": 20, "audio": 100} and set(record.chance) & {"t2i_r1", "i2t_r1"} == set()
    # Fewer samples than the protocol's batch of 32: the batch is as small as they are.
    few = bench(study, "run", "--protocol", "flickr8k_mini", "-o", "sgd", "--seeds", "1", "--epochs", "1", "--limit",
                "20", "--data-dir", "data", "--study", "few", "--json")  # fmt: skip
    (look,) = json.loads(few.stdout)
    assert (look["outcome"], look["steps"], look["pools"]["image"]) == ("ok", 1, 20)
    plan = bench(study, "run", "--protocol", "mini", "-o", "sgd", "--limit", "20", code=2)
    assert plan.stderr.startswith("error: --limit 20: protocol 'mini' has no limit; allowed with flickr8k, ")


def test_a_missing_image_stops_the_study_before_it_begins_or_is_left_out(study: Path, tmp_path: Path):
    data = shutil.copytree(study / "data", tmp_path / "data")
    lost = sorted((data / "flickr8k" / "Flicker8k_Dataset").iterdir())[3]
    lost.unlink()
    told = bench(tmp_path, "run", "-p", "flickr8k_mini", "-o", "sgd", "--data-dir", "data", code=2)
    (line,) = told.stderr.splitlines()
    assert f"Flicker8k_Dataset/{lost.name} is missing" in line and "Flickr8k.token.txt, line 16" in line
    assert not (tmp_path / "results").exists()
    (tmp_path / "less.toml").write_text('extends = "flickr8k_mini"\n[workload.dataset_options]\nabsent = "excluded"\n')
    plan = bench(tmp_path, "run", "-p", "less.toml", "-o", "sgd", "--seeds", "1", "--data-dir", "data", "--dry-run",
                 "--json")  # fmt: skip
    assert f"warning: flickr8k: 5 of 1,000 samples left out: 1 file missing or broken (Flicker8k_Dataset/{lost.name})" \
        in plan.stderr  # fmt: skip
    assert len(json.loads(plan.stdout)) == 1

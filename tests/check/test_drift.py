"""Drift over a history of checks."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.check.drift import drifts


def write(path: Path, series: dict[str, list[float | None]], protocol_hash: str = "p") -> Path:
    count = max(map(len, series.values()))
    lines = [
        {"finished": f"2026-01-{i + 1:02}", "commit": f"{i:040x}", "protocol_hash": protocol_hash,
         "optimizers": {name: {"mean": means[i]} for name, means in series.items() if i < len(means)}}
        for i in range(count)
    ]  # fmt: skip
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return path


def noise(seed: int, count: int = 24) -> list[float | None]:
    return [float(x) for x in np.random.default_rng(seed).normal(45, 0.3, count)]


def test_a_step_is_named_with_its_check_and_levels(tmp_path: Path):
    falling = [x - (1.5 if i >= 15 else 0) for i, x in enumerate(noise(1)) if x is not None]
    (said,) = drifts(write(tmp_path / "h.jsonl", {"falls": falling, "stays": noise(2)}))
    assert said.startswith("falls changed at check 16 of 24 (2026-01-16, commit 000000000000)")
    before, after = np.mean(falling[:15]), np.mean(falling[15:])
    assert f"{before:.2f} before, {after:.2f} since" in said


def test_noise_is_silent_at_its_rate(tmp_path: Path):
    alarms = sum(bool(drifts(write(tmp_path / f"{i}.jsonl", {"a": noise(100 + i), "b": noise(500 + i)})))
                 for i in range(60))  # fmt: skip
    assert alarms <= 3  # 60 × 0.01 at most; P(more than 3) = 0.3 %


@pytest.mark.parametrize("count", [0, 1, 11])
def test_a_short_history_says_nothing(tmp_path: Path, count: int):
    step = [45.0] * (count // 2) + [1.0] * (count - count // 2)
    path = write(tmp_path / "h.jsonl", {"a": [x + 0.001 * i for i, x in enumerate(step)]})
    assert drifts(path) == []


def test_other_protocols_and_broken_lines_are_passed_over(tmp_path: Path):
    path = write(tmp_path / "h.jsonl", {"a": [90.0 + 0.01 * i for i in range(20)]}, "old")
    with path.open("a") as file:
        file.write('{"half\n[]\n{"optimizers": 3}\n')
    assert drifts(write(path, {"a": noise(3)})) == []

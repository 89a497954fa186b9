"""The cache of decoded data: filled once, also by two processes, by a killed one and on a full disk."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.datasets import cache
from bench.datasets.cache import Recipe, Shape, cached, kept, megabytes, remove, stamp, versions
from bench.datasets.samples import DataError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def recipe(calls: list[str] | None = None, *, stamp: str = "s", size: int = 3, name: str = "set") -> Recipe:
    def fill(arrays: Mapping[str, np.ndarray], advance: Callable[[int], None]) -> Mapping[str, Any]:
        if calls is not None:
            calls.append(stamp)
        arrays["x"][:] = np.arange(size * 4).reshape(size, 4)
        advance(size)
        return {"sum": size}

    return Recipe(name=name, settings={"size": size}, stamp=stamp, shapes={"x": Shape((size, 4), "int16")},
                  steps=size, fill=fill)  # fmt: skip


def test_an_entry_is_filled_once_and_then_read(folder: Path, capsys: pytest.CaptureFixture):
    calls: list[str] = []
    for _ in range(3):
        entry = cached(recipe(calls))
        assert entry.arrays["x"].tolist() == np.arange(12).reshape(3, 4).tolist()
        assert entry.facts == {"sum": 3}
    assert calls == ["s"]
    assert recipe().folder.parent == folder
    assert capsys.readouterr().err == ""  # a few bytes are not worth a line
    cached(recipe(size=1 << 18))
    assert capsys.readouterr().err == f"set: writing 2.1 MB of decoded data to {recipe(size=1 << 18).folder}\n"


def test_other_settings_are_another_entry_and_another_stamp_replaces_it():
    calls: list[str] = []
    for each in (recipe(calls), recipe(calls, size=5), recipe(calls, stamp="t")):
        cached(each)
    assert calls == ["s", "s", "t"]
    assert len(kept()) == 2
    cached(recipe(calls, stamp="t"))
    assert len(calls) == 3


def test_what_is_mapped_stays_when_the_entry_is_replaced_or_removed():
    entry = cached(recipe())
    cached(recipe(stamp="t"))
    remove(recipe().folder.name)
    assert entry.arrays["x"].sum() == 66


def mapping_of(path: Path) -> str:
    """How the kernel has mapped a file: r, w, x, and p(rivate) or s(hared)."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    (mode,) = {line[1] for line in lines if line[-1] == str(path)}
    return mode


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
def test_arrays_are_mapped_read_only_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entry = cached(recipe())
    assert mapping_of(recipe().folder / "x.bin") == "r--s"
    assert entry.arrays["x"].sum() == 66


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "float16", "float32"])
def test_an_array_of_every_type_is_mapped(dtype: str):
    def fill(arrays: Mapping[str, np.ndarray], advance: Callable[[int], None]) -> Mapping[str, Any]:
        arrays["x"][:] = [3, 4]
        return {}

    one = Recipe(name=dtype, settings={}, stamp="", shapes={"x": Shape((2,), dtype)}, steps=1, fill=fill)
    assert cached(one).arrays["x"].dtype == getattr(torch, dtype) and cached(one).arrays["x"].tolist() == [3, 4]


def test_an_array_larger_than_the_memory_is_mapped(tmp_path: Path):
    """Of holes alone: nothing is written. Linux refuses so large a private mapping that can be written to."""
    memory = Path("/proc/meminfo")
    if not memory.exists():
        pytest.skip("no /proc/meminfo")
    found = dict(line.split(":") for line in memory.read_text().splitlines())
    size = sum(int(found[key].split()[0]) << 10 for key in ("MemTotal", "SwapTotal")) + (1 << 30)
    path = tmp_path / "x.bin"
    path.touch()
    try:
        os.truncate(path, size)
    except OSError as error:
        pytest.skip(f"the file system has no file of {megabytes(size)} ({error.strerror})")
    array = cache._mapped(path, Shape((size // 8, 8), "uint8"))
    assert array.shape == (size // 8, 8)
    assert array[0].sum() == array[-1].sum() == 0
    path.unlink()


def test_a_stamp_sees_a_change_that_keeps_size_and_time(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    before, status = stamp([path]), path.stat()
    time.sleep(0.02)  # the clock of a file system may be coarse
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    after = stamp([path])
    assert after != before and stamp([path]) == after


def test_versions_of_packages():
    assert versions("torch", "no-such-package") == {"torch": metadata.version("torch"), "no-such-package": None}


@pytest.mark.parametrize("damage", ["cut", "no facts", "half facts", "no array"])
def test_a_damaged_entry_is_filled_anew(damage: str):
    calls: list[str] = []
    cached(recipe(calls))
    place = recipe().folder
    if damage == "cut":
        os.truncate(place / "x.bin", 7)
    elif damage == "no array":
        (place / "x.bin").unlink()
    else:
        text = (place / "entry.json").read_text()
        (place / "entry.json").write_text("" if damage == "no facts" else text[: len(text) // 2])
    assert cached(recipe(calls)).arrays["x"].sum() == 66
    assert len(calls) == 2


def test_a_fault_while_filling_leaves_nothing(folder: Path):
    def fill(arrays: Mapping[str, np.ndarray], advance: Callable[[int], None]) -> Mapping[str, Any]:
        raise DataError("set: x.jpg is cut off")

    broken = Recipe(name="set", settings={}, stamp="", shapes={"x": Shape((1,), "uint8")}, steps=1, fill=fill)
    with pytest.raises(DataError, match=r"x\.jpg is cut off"):
        cached(broken)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == []


def test_too_little_room_is_said_before_anything_is_written(folder: Path):
    shapes = {"x": Shape((1 << 40, 1 << 12), "uint8")}
    huge = Recipe(name="set", settings={}, stamp="", shapes=shapes, steps=1, fill=lambda arrays, advance: {})
    with pytest.raises(DataError, match=r"has .* of room; 4503599\.6 GB are needed; BENCH_CACHE names another folder"):
        cached(huge)
    assert [path for path in folder.iterdir() if path.is_dir()] == []


def test_no_item_is_an_entry_too():
    assert cached(recipe(size=0)).arrays["x"].shape == (0, 4)
    assert cached(recipe(size=0)).arrays["x"].dtype == torch.int16


FILLER = textwrap.dedent("""
    import sys, time
    from bench.datasets.cache import Recipe, Shape, cached
    def fill(arrays, advance):
        print("fills", flush=True)
        for i in range(20):
            arrays["x"][i] = i
            time.sleep(0.05)
        return {}
    entry = cached(Recipe(name="set", settings={}, stamp="", shapes={"x": Shape((20,), "int32")}, steps=20, fill=fill))
    print("sum", int(entry.arrays["x"].sum()), flush=True)
""")


def filler() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", FILLER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_two_processes_one_fills_and_both_read():
    outputs = [process.communicate(timeout=120)[0] for process in [filler(), filler()]]
    assert sorted(line for text in outputs for line in text.splitlines()) == ["fills", "sum 190", "sum 190"]


def test_what_a_killed_process_left_is_cleaned_and_filled_anew(folder: Path):
    killed = filler()
    assert killed.stdout is not None and killed.stdout.readline() == "fills\n"
    time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(list(folder.glob("*.partial"))) == 1
    assert filler().communicate(timeout=120)[0].split() == ["fills", "sum", "190"]
    assert list(folder.glob("*.partial")) == []


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("BENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "optimizer-bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "optimizer-bench"


@pytest.mark.parametrize(("count", "text"), [(0, "0.0 MB"), (2.5e6, "2.5 MB"), (1.25e7, "12 MB"), (3.44e9, "3.4 GB")])
def test_sizes_in_words(count: float, text: str):
    assert megabytes(count) == text


def test_the_command_lists_and_removes(bench: Callable, folder: Path):
    for each in (recipe(), recipe(name="other")):
        cached(each)
    code, out, err = bench("cache")
    assert code == 0 and [line.split()[-1].partition("-")[0] for line in out.splitlines()] == ["other", "set"]
    assert err.endswith(f"in 2 entries kept; folder {folder}\n")
    content = json.loads(bench("cache", "--json")[1])
    facts = json.dumps({"stamp": "s", "facts": {"sum": 3}})
    assert [entry["bytes"] for entry in content["entries"]] == [24 + len(facts)] * 2
    assert bench("cache", "set-*", "--remove")[0] == 0
    assert [entry.name.partition("-")[0] for entry in kept()] == ["other"]
    code, _, err = bench("cache", "mnist")
    assert code == 2 and "'mnist': no entry of the cache; there are other-" in err


def test_folders_that_are_not_ours_are_neither_listed_nor_removed(bench: Callable, folder: Path, tmp_path: Path):
    cached(recipe())
    (tmp_path / "elsewhere").mkdir()
    (folder / "linked-0123456789abcdef").symlink_to(tmp_path / "elsewhere")
    for name in ("thesis", "photos-2024", "set-0123456789abcdef0", "set-0123456789abcdef.zip", "with facts"):
        (folder / name).mkdir()
        (folder / name / "mine").write_text("mine")
    (folder / "with facts" / "entry.json").write_text('{"mine": 1}')
    left = recipe().folder.with_name(f"{recipe().folder.name}.k1ll_d.partial")
    left.mkdir()
    assert [entry.name for entry in kept()] == [recipe().folder.name, left.name]
    code, out, err = bench("cache", "--remove")
    assert code == 0 and len(out.splitlines()) == 2 and "in 2 entries removed" in err
    assert kept() == []
    assert len(list(folder.glob("*/mine"))) == 5 and (tmp_path / "elsewhere").is_dir()
    for name in ("thesis", "../elsewhere", ".", "linked-0123456789abcdef"):
        with pytest.raises(ValueError, match="is no entry of the cache"):
            remove(name)
    assert bench("cache", "thesis", "--remove")[0] == 2


def test_an_entry_of_another_name_is_known_by_its_facts(folder: Path):
    cached(recipe())
    recipe().folder.rename(folder / "renamed")
    assert [entry.name for entry in kept()] == ["renamed"]
    assert remove("renamed") and kept() == []


def test_what_is_being_filled_is_not_removed(bench: Callable, folder: Path):
    cached(recipe())
    filling = filler()
    assert filling.stdout is not None and filling.stdout.readline() == "fills\n"
    (partial,) = folder.glob("*.partial")
    content = json.loads(bench("cache", "--remove", "--json")[1])
    assert content["busy"] == [partial.name]
    assert [entry["name"] for entry in content["entries"]] == [recipe().folder.name]
    code, _, err = bench("cache", "--remove")
    assert code == 0 and err.startswith(f"{partial.name} is being written by a run; it is not removed\n")
    assert filling.communicate(timeout=120)[0].split() == ["sum", "190"]
    assert bench("cache", "--remove")[0] == 0 and kept() == []

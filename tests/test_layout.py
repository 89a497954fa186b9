"""The import names of the three top-level folders."""

import importlib
from pathlib import Path

import pytest

import bench

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("folder", ["optimizers", "models", "datasets"])
def test_bench_links_to_the_folder(folder: str):
    link = ROOT / "bench" / folder
    assert link.is_symlink(), (
        f"bench/{folder} is no symbolic link: check out with links (git config core.symlinks true)"
    )
    assert link.resolve() == ROOT / folder
    assert not (ROOT / folder / "__init__.py").exists()


def test_modules_are_found_under_bench_alone():
    assert importlib.import_module("bench.datasets.paired").__name__ == "bench.datasets.paired"
    assert importlib.import_module("bench.models.multimodal_memory").MODALITIES == ("text", "image", "audio")


def test_public_names_exist():
    for name in bench.__all__:
        assert getattr(bench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bench.nothing  # pyright: ignore[reportAttributeAccessIssue]

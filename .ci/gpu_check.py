"""What a GPU is asked where one is at hand: its tests, `bench speed`, the standard study and a tuned one, unattended.

Everything has its share of ten minutes; what is over it is ended, and what follows goes on. What was measured lies in
results/gpu-check, or the folder that is given, with a line for each part in summary.json. Without CUDA: exit code 2.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH = [sys.executable, "-m", "bench"]
# Part → seconds, command. A study that is ended keeps its finished runs, and the next part reports them.
PARTS: dict[str, tuple[float, list[str]]] = {
    "tests": (100, [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py"]),
    "step": (60, [*BENCH, "speed", "step", "-p", "standard", "--json", "--plot", "{out}/roofline.svg"]),
    "optimizers": (60, [*BENCH, "speed", "optimizers", "-p", "standard", "-o", "all", "--json"]),
    "data": (20, [*BENCH, "speed", "data", "-p", "standard", "--json"]),
    "speed_study": (90, [*BENCH, "speed", "study", "-p", "mini", "-o", "adamw,gda2", "--seeds", "1", "--json"]),
    "study": (150, [*BENCH, "run", "-p", "standard", "-o", "all", "--results", "{out}/results"]),
    "report": (20, [*BENCH, "report", "standard", "--results", "{out}/results", "--reports", "{out}/reports"]),
    "tune": (90, [*BENCH, "tune", "-p", "standard", "-o", "all", "--trials", "6", "--results", "{out}/results"]),
}


def main() -> int:
    """The exit code: 0 where every part ended well, 1 where one did not, 2 without CUDA."""
    import torch

    if not torch.cuda.is_available():
        print("gpu-check: no CUDA device")
        return 2
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "results" / "gpu-check").absolute()
    out.mkdir(parents=True, exist_ok=True)
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join(filter(None, [importable(out), os.environ.get("PYTHONPATH")]))
    )
    summary = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "parts": {}}
    for name, (limit, command) in PARTS.items():
        start = time.monotonic()
        with (out / f"{name}.log").open("w") as log, (out / f"{name}.json").open("w") as found:
            try:
                arguments = [part.format(out=out) for part in command]
                done = subprocess.run(arguments, cwd=ROOT, env=environment, timeout=limit, stdout=found, stderr=log)  # noqa: S603
                code: int | str = done.returncode
            except subprocess.TimeoutExpired:
                code = f"over {limit:.0f} s"
        summary["parts"][name] = {"exit": code, "seconds": round(time.monotonic() - start, 1)}
        print(f"{name}: {code}, {time.monotonic() - start:.0f} s", flush=True)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return int(any(part["exit"] not in (0, 5) for part in summary["parts"].values()))


def importable(out: Path) -> str:
    """A folder from which `bench` can be imported where it is not installed: its parts lie apart in the repository."""
    try:
        import bench  # noqa: F401
    except ImportError:
        package = out / "path" / "bench"
        shutil.rmtree(package, ignore_errors=True)
        package.mkdir(parents=True)
        parts = [*(ROOT / "bench").iterdir(), *(ROOT / name for name in ("datasets", "models", "optimizers"))]
        for part in parts:
            (package / part.name).symlink_to(part)
        return str(package.parent)
    return ""


if __name__ == "__main__":
    sys.exit(main())

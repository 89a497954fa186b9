"""A worker process: reads shards of runs on standard input, carries them out, writes their records.

One JSON object a line, both ways. In: {"runs": [...], "study": ..., "device": ..., "data_dir": ..., "command": ...}.
Out: {"event": "ready"}, {"event": "epoch", ...}, {"event": "done", ...}. It ends with its standard input, so that it
dies with its parent. Whatever code it runs prints goes to standard error, never between the events.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

import torch

from bench.plan import Run
from bench.record import CurvePoint
from bench.store import Store
from bench.trainer import execute


def main() -> None:
    """Serve until standard input ends; the one argument is the number of threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(int(sys.argv[1]))
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory costs time and only helps to find bugs.
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cudnn.allow_tf32 = False
    _send(events, event="ready")
    for line in _lines_until_the_parent_dies():
        shard = json.loads(line)
        for run in shard["runs"]:
            _carry_out(Run.model_validate_json(json.dumps(run)), shard, events)


def _lines_until_the_parent_dies() -> Any:
    """Lines of standard input, read by a thread that ends the process when the input ends, also in mid-run."""
    import queue

    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def _carry_out(run: Run, shard: dict[str, Any], events: TextIO) -> None:
    store = Store(Path(shard["study"]))
    store.start_curve(run.run_id)

    def on_epoch(point: CurvePoint) -> None:
        store.append_curve(run.run_id, point)
        _send(events, event="epoch", run_id=run.run_id, epoch=point.epoch, loss=point.loss if point.loss == point.loss
              else None, avg_r1=point.metrics.get("avg_r1"))  # fmt: skip

    data_dir = shard["data_dir"] and Path(shard["data_dir"])
    record = execute(
        run, device=torch.device(shard["device"]), data_dir=data_dir, on_epoch=on_epoch, command=shard["command"]
    )
    store.write_record(record)
    _send(events, event="done", run_id=run.run_id, outcome=record.outcome)


def _send(events: TextIO, **event: Any) -> None:
    events.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    main()

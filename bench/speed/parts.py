"""Where the time of real runs goes: the worker's own path, its parts timed from outside."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from bench import bank, retrieval, trainer
from bench.bank import Bank, runs_at_once
from bench.datasets.samples import Samples
from bench.executor import Shard
from bench.models.multimodal_memory import MultiModalMemoryNetwork
from bench.models.multimodal_memory_bank import NetworkBank
from bench.placement import placed
from bench.protocol import Protocol
from bench.runner import prepare
from bench.store import Store
from bench.timing import wait_for
from bench.worker import carry_out

PARTS = ("forward", "backward", "clip", "step", "data", "evaluation")


class _Watch:
    """Seconds by part; of nested parts the outer one counts."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._inside = threading.local()

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, counted under `part`."""

        def wrapper(*arguments: Any, **named: Any) -> Any:
            if getattr(self._inside, "part", None) is not None:
                return call(*arguments, **named)
            wait_for(self._device)
            self._inside.part, start = part, time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                wait_for(self._device)
                self.seconds[part] += time.perf_counter() - start
                self._inside.part = None

        return wrapper

    @contextmanager
    def on(self, optimizer: type[Optimizer], dataset: type) -> Iterator[None]:
        """Watch everything that a run of this optimizer on this data calls."""
        places: list[tuple[Any, str, str]] = [
            (MultiModalMemoryNetwork, "forward", "forward"), (NetworkBank, "forward", "forward"),
            (bank, "bank_pair_losses", "forward"), (torch.Tensor, "backward", "backward"),
            (torch.autograd, "grad", "backward"), (nn.utils, "clip_grad_norm_", "clip"), (Bank, "_hand_out", "clip"),
            (optimizer, "step", "step"), (dataset, "training", "data"), (Samples, "take", "data"),
            (Bank, "embeddings", "evaluation"), (trainer, "embeddings_alone", "evaluation"),
            (retrieval, "embedding_scores", "evaluation"),
        ]  # fmt: skip
        with ExitStack() as stack:
            for owner, name, part in places:
                own = vars(owner).get(name)
                setattr(owner, name, self.timed(part, getattr(owner, name)))
                if own is None:  # inherited
                    stack.callback(delattr, owner, name)
                else:
                    stack.callback(setattr, owner, name, own)
            yield


def time_by_part(protocol: Protocol, data_dir: Path | None, device: torch.device) -> tuple[dict[str, float], int]:
    """Seconds a run's step by part, of AdamW's runs as a worker carries them out, and their number at once.

    `harness` is the rest: everything between the first run's start and the last one's end that is none of the parts.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = placed(device=str(device), workers=1, threads=torch.get_num_threads(), data_dir=data_dir)
        plan = prepare(["adamw"], protocol=protocol, results=folder, seeds=place.batch_runs, device=str(device),
                       data_dir=data_dir)  # fmt: skip
        runs = plan.runs[: runs_at_once(plan.runs[0], place)]
        began: list[float] = []
        ended: list[float] = []
        watch = _Watch(device)

        def send(**event: Any) -> None:
            if event["event"] in ("started", "done"):
                (began if event["event"] == "started" else ended).append(time.perf_counter())
            if event["event"] == "started" and len(began) == len(runs):
                watch.seconds = dict.fromkeys(PARTS, 0.0)

        Store(plan.store.path).write_protocol(protocol)
        dataset = trainer.resident_dataset(protocol.workload.model_dump_json(), data_dir, str(device))
        with watch.on(torch.optim.AdamW, type(dataset)):
            carry_out(Shard(runs=tuple(runs), study=plan.store.path, placement=place), send, threading.Event(), device)
        record = Store(plan.store.path).read_record(runs[0].run_id)
    assert record is not None
    steps = record.steps * len(runs)
    seconds = {part: value / steps for part, value in watch.seconds.items()}
    seconds["harness"] = (ended[-1] - began[-1]) / steps - sum(seconds.values())
    return seconds, len(runs)

"""One of the processes of `--parallel ddp`, under torchrun: number 0 is a worker as any other, the rest follow it.

Arguments: the number of threads, and the device. Number 0 reads and tells what `bench.worker` does. A process of the
group ends by itself only with a fault, upon which torchrun ends the others: the worker as a whole has died then.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback

import torch

from bench.checkpoint import Checkpoints, Keeper, StoppedError
from bench.ddp import Ranks, stay_on_this_machine
from bench.engines.local import gpus_in_sight
from bench.execution import execute
from bench.executor import Shard
from bench.record import FAILURES
from bench.store import Store
from bench.worker import opened_events, prepare_process, serve

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def follow(ranks: Ranks, device: torch.device) -> None:
    """Take part in the runs that the first process begins, one after the other."""
    while True:
        shard = Shard.model_validate_json(ranks.told())
        (run,), placement, store = shard.runs, shard.placement, Store(shard.study)
        keeper = Keeper(Checkpoints(store.run_dir(run.run_id)), steps=placement.checkpoint_steps,
                        time_limit=placement.time_limit, ranks=ranks)  # fmt: skip
        try:
            record = execute(run, device=device, data_dir=placement.data_dir, command=placement.command, keeper=keeper,
                             ranks=ranks, study=store.path)  # fmt: skip
        except StoppedError:
            continue
        if not ranks.settled(failed=record.outcome in FAILURES):
            store.write_record(record)  # the first process, which would do so, waits for this one in vain
            return


def main() -> None:
    """Serve or follow until standard input ends, or a process of the group."""
    _die_with_torchrun()
    number, events = int(os.environ["LOCAL_RANK"]), opened_events()
    device = torch.device(sys.argv[2])
    if device.type == "cuda" and device.index is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus_in_sight(os.environ)[number]
    prepare_process(int(sys.argv[1]))
    stay_on_this_machine()
    try:
        ranks = Ranks.joined(device)
        if ranks.first:
            serve(events, ranks)
        else:
            follow(ranks, device)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)  # at once: what others hold of a group that is broken may never be given back


def _die_with_torchrun() -> None:
    """Ask the system to kill this process when the one that started it dies; elsewhere only its input's end does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()

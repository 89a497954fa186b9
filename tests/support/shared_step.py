"""A few training steps in float64, by one process or, under torchrun, by several.

    torchrun ... shared_step.py PROTOCOLS FOLDER

takes the steps of every protocol in a JSON file; each process writes what it found to FOLDER/<protocol>-<rank>.pt.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.datasets.samples import Samples
from bench.ddp import Ranks, stay_on_this_machine
from bench.plan import Run
from bench.protocol import Protocol
from bench.registry import entry
from bench.trainer import Trainer

STEPS = 2


def double(samples: Samples) -> Samples:
    values = {field.name: getattr(samples, field.name) for field in fields(samples)}
    return replace(samples, **{k: v.double() for k, v in values.items() if v is not None and v.is_floating_point()})


def steps_taken(protocol: Protocol, ranks: Ranks | None = None) -> dict[str, Tensor]:
    """Losses, gradient norm, clipped gradients, weights and running statistics after each step."""
    spec = entry("custom_sgd")
    run = Run(protocol=protocol, optimizer=spec.name, reference=spec.name, hyperparameters=dict(spec.defaults), seed=0)
    trainer = Trainer(run, torch.device("cpu"), ranks=ranks)
    trainer.model.double().train()
    samples, order = trainer.dataset.training(1, 0), torch.arange(trainer.dataset.training_size)
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        indices = order[step * protocol.batch_size : (step + 1) * protocol.batch_size]
        batch = double(samples.take(indices if ranks is None else ranks.share(indices)))
        evaluation = trainer.take_step(batch, step, nullcontext())
        found |= {f"{step} losses": evaluation.losses, f"{step} norm": evaluation.gradient_norm}
        found |= {f"{step} gradient {name}": p.grad.clone()
                  for name, p in trainer.model.named_parameters() if p.grad is not None}  # fmt: skip
        found |= {f"{step} {name}": value.clone() for name, value in trainer.model.state_dict().items()}
    return found


def main() -> None:
    stay_on_this_machine()
    ranks = Ranks.joined(torch.device("cpu"))
    for name, protocol in json.loads(Path(sys.argv[1]).read_text()).items():
        found = steps_taken(Protocol.model_validate_json(json.dumps(protocol)), ranks)
        torch.save(found, Path(sys.argv[2]) / f"{name}-{ranks.rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

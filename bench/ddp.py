"""One run by several processes (`--parallel ddp`): each has a share of every batch, and all take the same steps.

What a step computes is what one process would compute, up to rounding: the loss is that of the whole batch with all of
its negatives, batch norm has the whole batch's statistics, dropout the whole batch's masks, and the gradients, their
norm and so the update are the whole batch's.

Shapes: N processes, B batch, b = B/N own samples, M modalities, D embedding, C channels, P all gradients of a network.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from bench.errors import LostProcessError, UsageError
from bench.models.dropout import DropoutStream, ShareOfDropout
from bench.models.multimodal_memory import at_least_float32
from bench.protocol import Protocol
from bench.spec import Need, OptimizerSpec

PATIENCE = timedelta(days=30)  # the others wait for the first process also between runs; a death is noticed at once
SETTLING = timedelta(seconds=20)  # how far behind others may be where a run has failed in all processes
ONE_PROCESS = {Need.CLOSURE, Need.SECOND_ORDER, Need.TRAIN_EVAL_SWITCH}


def require_ddp(spec: OptimizerSpec, protocol: Protocol) -> None:
    """Raise `UsageError` where an entry, or the protocol's precision, is for runs of one process alone."""
    if alone := sorted(ONE_PROCESS & spec.needs):
        raise UsageError(f"--parallel ddp: optimizer {spec.name} has the need {' and '.join(alone)}; allowed are those "
                         "without, and --parallel runs")  # fmt: skip
    if on := protocol.techniques.on:
        raise UsageError(f"--parallel ddp: techniques {', '.join(on)}; allowed are none, and --parallel runs")
    if protocol.workload.model_reads_files:
        raise UsageError("--parallel ddp: the network is made of your files, whose own dropout and batch norm know one "
                         "process; allowed is --parallel runs")  # fmt: skip
    if protocol.precision == "fp16":
        raise UsageError("--parallel ddp: precision is 'fp16'; allowed are 'float32' and 'bf16', and --parallel runs")


def require_shares(protocol: Protocol, processes: int, training_size: int) -> None:
    """Raise `UsageError` where a batch cannot be divided into equal shares."""
    last = training_size % protocol.batch_size if not protocol.drop_last else 0
    for what, size in (("batch size", protocol.batch_size), ("the last batch, of size", last)):
        if size % processes:
            raise UsageError(f"--parallel ddp: {what} {size} is not a multiple of {processes} processes")


@contextmanager
def _with_all() -> Iterator[None]:
    """Around every collective operation: it fails where another process has died."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostProcessError(f"another process of the run is gone: {error}") from error


class Ranks:
    """The processes of a run as one of them sees them; number 0 is the one that decides, writes and tells."""

    def __init__(self, rank: int, size: int, store: Store | None = None) -> None:
        self.rank, self.size, self._store, self._runs = rank, size, store, 0

    @staticmethod
    def joined(device: torch.device) -> Ranks:
        """The group that torchrun's environment variables describe, once all processes are there."""
        store, rank, size = next(rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=size,
                                timeout=PATIENCE)  # fmt: skip
        return Ranks(rank, size, store)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, whole: Tensor) -> Tensor:
        """The own b of B rows."""
        own = len(whole) // self.size
        return whole[self.rank * own : (self.rank + 1) * own]

    def decided(self, own: bool) -> bool:
        """What the first process says."""
        flag = torch.tensor([own], dtype=torch.uint8)
        with _with_all():
            dist.broadcast(flag, 0)
        return bool(flag.item())

    def have(self, number: int) -> bool:
        """Whether all processes have the same number."""
        with _with_all():
            return len(set(self._all(torch.tensor([number])).flatten().tolist())) == 1

    def told(self, text: str = "") -> str:
        """The first process's text; the others wait for it."""
        length = torch.tensor([len(text.encode())])
        with _with_all():
            dist.broadcast(length, 0)
            content = torch.frombuffer(bytearray(text.encode() or bytes(int(length))), dtype=torch.uint8)
            dist.broadcast(content, 0)
        return content.numpy().tobytes().decode()

    def settled(self, *, failed: bool) -> bool:
        """Whether the others can go on to the next run; they cannot where a run has `failed` in this process alone.

        They then wait for it in the middle of a step.
        """
        assert self._store is not None
        self._runs += 1
        self._store.set(f"ended/{self._runs}/{self.rank}", "")
        if failed:
            try:
                self._store.wait([f"ended/{self._runs}/{rank}" for rank in range(self.size)], SETTLING)
            except RuntimeError:  # not in time
                return False
        return True

    def _all(self, x: Tensor) -> Tensor:
        """`x` of every process, [N, …]."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    def sum_(self, x: Tensor) -> Tensor:
        """`x`, made the sum over all processes."""
        with _with_all():
            dist.all_reduce(x)
        return x

    def gathered(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The embeddings [B, D] of the whole batch from each process's [b, D]; differentiable."""
        own_MbD = torch.stack([at_least_float32(x) for x in embeddings.values()])
        return dict(zip(embeddings, _Gathered.apply(own_MbD, self).unbind(0), strict=True))

    def gathered_ids(self, id_b: Tensor) -> Tensor:
        """The whole batch's ids [B]."""
        with _with_all():
            return self._all(id_b).flatten()

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance [C] of the whole batch's x [B, C, …], of which this process has [b, C, …]."""
        var_C, mean_C = torch.var_mean(x, dim=_all_but_channels(x), correction=0)
        with _with_all():
            mean_NC, var_NC = self._all(torch.stack([mean_C, var_C])).unbind(1)
        mean_C = mean_NC.mean(dim=0)
        return mean_C, (var_NC + (mean_NC - mean_C).square()).mean(dim=0)

    def use_global_statistics(self, network: nn.Module) -> None:
        """Put `GlobalBatchNorm` in the place of every batch norm layer inside `network`; names stay as they are."""
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, _BatchNorm):
                    setattr(module, name, GlobalBatchNorm(child, self))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give all processes the sum of their gradients."""
        present = [(p, p.grad) for p in parameters if p.grad is not None]
        flat_P = self.sum_(torch.cat([gradient.flatten() for _, gradient in present]))
        parts = flat_P.split([gradient.numel() for _, gradient in present])
        for (p, gradient), part in zip(present, parts, strict=True):
            p.grad = part.view_as(gradient).to(gradient.dtype)

    def dropout(self, stream: DropoutStream, own: int) -> ShareOfDropout:
        """The step's masks for a batch of which this process has `own` samples."""
        return ShareOfDropout(stream, self.rank * own, own, self.size * own)


class _Gathered(torch.autograd.Function):
    """Embeddings of all processes.

    Each computes the whole loss, hence the whole gradient [M, B, D], whose own rows are all that its own samples get:
    nothing has to be sent back.
    """

    @staticmethod
    def forward(ctx: Any, own_MbD: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        with _with_all():
            return ranks._all(own_MbD).transpose(0, 1).flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient_MBD,) = gradients
        return ctx.ranks.share(gradient_MBD.transpose(0, 1)).transpose(0, 1), None


class GlobalBatchNorm(_BatchNorm):
    """A batch norm layer whose statistics are those of all processes' samples; its parameters and buffers are `own`'s.

    (`nn.SyncBatchNorm` is for GPUs alone.)
    """

    def __init__(self, own: _BatchNorm, ranks: Ranks) -> None:
        super().__init__(own.num_features, own.eps, own.momentum, own.affine, own.track_running_stats)
        self._ranks = ranks
        self.weight, self.bias = own.weight, own.bias
        self.running_mean, self.running_var = own.running_mean, own.running_var
        self.num_batches_tracked = own.num_batches_tracked
        self.train(own.training)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        """Any number of axes after the channels."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[B, C, …]; in training the running statistics are updated."""
        if not self.training:
            return super().forward(input)
        mean_C, var_C = self._ranks.moments(input.detach())
        if self.track_running_stats:
            self._count(mean_C, var_C, places=self._ranks.size * input.numel() // input.shape[1])
        return _Normalized.apply(input, self.weight, self.bias, mean_C, var_C, self.eps, self._ranks)

    @torch.no_grad()
    def _count(self, mean_C: Tensor, var_C: Tensor, places: int) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        for running, new_C in ((self.running_mean, mean_C), (self.running_var, var_C * (places / (places - 1)))):
            assert running is not None
            running.mul_(1 - momentum).add_(momentum * new_C)


class _Normalized(torch.autograd.Function):
    """(x − mean) / √(var + ε) · weight + bias, mean and variance being functions of all processes' x.

    With g = ∂L/∂y · weight and x̂ the normalised x:  ∂L/∂x = (g − mean(g) − x̂ mean(g x̂)) / √(var + ε), where the means
    are those of the whole batch. What weight and bias get is this process's part of the sum.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, mean_C: Tensor, var_C: Tensor, eps: float,
        ranks: Ranks,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight_C, mean_C, (var_C + eps).rsqrt())
        ctx.ranks = ranks
        return F.batch_norm(x, mean_C, var_C, weight_C, bias_C, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight_C, mean_C, scale_C) = gradients, ctx.saved_tensors
        dims, over_channels = _all_but_channels(x), (-1, *(1 for _ in x.shape[2:]))
        normal = (x - mean_C.view(over_channels)) * scale_C.view(over_channels)
        sums_C2 = torch.stack([gradient.sum(dim=dims), (gradient * normal).sum(dim=dims)], dim=1)
        places = ctx.ranks.size * x.numel() // x.shape[1]
        means_C2 = ctx.ranks.sum_(sums_C2.clone()) / places
        centred = gradient - means_C2[:, 0].view(over_channels) - normal * means_C2[:, 1].view(over_channels)
        factor_C = scale_C if weight_C is None else scale_C * weight_C
        affine = (None, None) if weight_C is None else (sums_C2[:, 1], sums_C2[:, 0])
        return centred * factor_C.view(over_channels), *affine, None, None, None, None


def _all_but_channels(x: Tensor) -> list[int]:
    """The axes of x [B, C, …] that statistics are taken over."""
    return [0, *range(2, x.dim())]


def stay_on_this_machine() -> None:
    """Have gloo talk over the loopback interface, where the user has not said otherwise and it has its usual name."""
    with suppress(OSError):
        if any(name == "lo" for _, name in socket.if_nameindex()):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

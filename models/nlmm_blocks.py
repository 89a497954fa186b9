"""The blocks of NL-MM: fast-weight attention and the continuum memory system.

Fast-weight attention writes every token into a matrix and reads it, M <- M + v k^T, y = M q: linear attention without a
softmax. Nothing here loops over tokens: where a token may see all others M is one product, and where it may only see
those before it, prefix sums over chunks of tokens stand in for the loop (`tests/test_nlmm.py` has the loop).

Shapes: B batch, L tokens, D width, H heads, K head width, P parts (query, key, value), N chunks of C tokens.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.multimodal_memory import Dropout, at_least_float32

EPS = 1e-6
CHUNK = 64  # tokens; a chunk costs C² and a state K², of which neither should outgrow the other

Composition = Literal["chain", "sum"]


def rms_norm(x: Tensor, gain_D: Tensor | None = None) -> Tensor:
    """x over its root mean square along the last axis, in float32 also where matrices are in half precision."""
    return F.rms_norm(at_least_float32(x), x.shape[-1:], gain_D, EPS)


def masked_mean(x_BLD: Tensor, mask_BL1: Tensor | None) -> Tensor:
    """Mean over real tokens [B, D], zero where there is none; `mask_BL1` is 1 at real tokens."""
    if mask_BL1 is None:
        return x_BLD.mean(dim=1)
    return (x_BLD * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1).clamp_min(1)


def running_mean(x_BLD: Tensor, mask_BL1: Tensor | None) -> Tensor:
    """At each token the mean of the real ones up to it, [B, L, D]."""
    if mask_BL1 is None:
        count_L1 = torch.arange(1, x_BLD.shape[1] + 1, device=x_BLD.device, dtype=x_BLD.dtype).unsqueeze(1)
        return x_BLD.cumsum(dim=1) / count_L1
    return (x_BLD * mask_BL1).cumsum(dim=1) / mask_BL1.cumsum(dim=1).clamp_min(1)


def all_sum(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> Tensor:
    """Every token reads what all of them have written: y_t = (sum over s of v_s k_s^T) q_t."""
    return torch.matmul(q_BHLK, torch.matmul(k_BHLK.transpose(-1, -2), v_BHLK))


def prefix_sum(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, chunk: int = CHUNK) -> Tensor:
    """Every token reads what those up to it have written, itself included: y_t = (sum over s <= t of v_s k_s^T) q_t."""
    L = q_BHLK.shape[2]
    if chunk >= L:
        return torch.matmul(torch.matmul(q_BHLK, k_BHLK.transpose(-1, -2)).tril(), v_BHLK)
    padding = (0, 0, 0, -L % chunk)  # tokens of zeros write nothing
    q, k, v = (F.pad(x, padding).unflatten(2, (-1, chunk)) for x in (q_BHLK, k_BHLK, v_BHLK))
    written_BHNKK = torch.matmul(k.transpose(-1, -2), v)
    before_BHNKK = written_BHNKK.cumsum(dim=2) - written_BHNKK
    within = torch.matmul(torch.matmul(q, k.transpose(-1, -2)).tril(), v)
    return (within + torch.matmul(q, before_BHNKK)).flatten(2, 3)[:, :, :L]


def scaled_linear(inputs: int, outputs: int, scale: float, *, bias: bool = True) -> nn.Linear:
    """A linear layer whose weights start as Xavier's times `scale`, and its bias as zero."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_normal_(layer.weight, gain=scale)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class FastWeightAttention(nn.Module):
    """Attention through a fast-weight matrix a head, of RMS-normalised queries and keys, at 1/√K.

    Where it `modulates`, queries, keys and values are multiplied with scales 1 + tanh(MLP(mean token)) of their own, a
    head. A causal token's mean is of the tokens up to it: the mean of all would tell it what follows.
    """

    def __init__(self, width: int, heads: int, scale: float, *, scale_width: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"latent_dim is {width}; allowed are multiples of num_heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        for part, gain in zip(self.qkv.weight.chunk(3), (1.0, 1.0, scale), strict=True):
            with torch.no_grad():
                nn.init.xavier_normal_(part, gain=gain)
        self.output = scaled_linear(width, width, scale, bias=False)
        self.scales = None
        if scale_width is not None:
            self.scales = nn.Sequential(
                nn.Linear(width, scale_width), nn.GELU(), nn.Linear(scale_width, 3 * heads)
            )  # fmt: skip

    def forward(self, x_BLD: Tensor, mask_BL1: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """[B, L, D]; tokens whose mask is 0 write nothing."""
        qkv_PBHLK = self.qkv(x_BLD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        qk_PBHLK, v = rms_norm(qkv_PBHLK[:2]), at_least_float32(qkv_PBHLK[2])
        if self.scales is not None:
            mean = running_mean(x_BLD, mask_BL1) if causal else masked_mean(x_BLD, mask_BL1).unsqueeze(1)
            scale = 1 + torch.tanh(self.scales(mean))  # [B, L or 1, 3·H]
            scale_PBHL1 = scale.unflatten(-1, (3, self.heads)).permute(2, 0, 3, 1).unsqueeze(-1)
            qk_PBHLK, v = qk_PBHLK * scale_PBHL1[:2], v * scale_PBHL1[2]
        if mask_BL1 is not None:
            v = v * mask_BL1.unsqueeze(1)
        q, k = qk_PBHLK.unbind(0)
        y_BHLK = (prefix_sum if causal else all_sum)(q, k, v * (1 / math.sqrt(v.shape[-1])))
        return self.output(y_BHLK.transpose(1, 2).flatten(2))


class ContinuumMemory(nn.Module):
    """Levels of MLPs D → mult·D → D, each updated at its own frequency: level0 the most often.

    `chain`: each level sees what those before it have made of the token, h_l = h_(l-1) + MLP_l(h_(l-1)).
    `sum`: all see the token itself. What is returned is what the levels add to the token.
    """

    def __init__(self, width: int, mult: int, levels: int, composition: Composition, scale: float) -> None:
        super().__init__()
        if composition not in ("chain", "sum"):
            raise ValueError(f"cms is {composition!r}; allowed are 'chain' and 'sum'")
        if levels < 1:
            raise ValueError(f"levels is {levels}; allowed is 1 or more")
        self.composition = composition
        hidden = mult * width
        self.levels = nn.ModuleDict({
            f"level{i}": nn.Sequential(
                scaled_linear(width, hidden, scale), nn.GELU(), scaled_linear(hidden, width, scale)
            )
            for i in range(levels)
        })  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of `x` [..., D]."""
        first, *others = self.levels.values()
        added = first(x)
        for level in others:
            added = added + level(x + added if self.composition == "chain" else x)
        return added


class Block(nn.Module):
    """x ← RMSNorm(α·x + attention(x)), then x ← RMSNorm(x + CMS(x)); α = (2·depth)^¼ keeps deep stacks stable."""

    def __init__(self, attention: FastWeightAttention, memory: ContinuumMemory, width: int, depth: int) -> None:
        super().__init__()
        self.attention, self.cms = attention, memory
        self.alpha = residual_scale(depth)
        self.attention_gain = nn.Parameter(torch.ones(width))
        self.cms_gain = nn.Parameter(torch.ones(width))

    def forward(self, x_BLD: Tensor, mask_BL1: Tensor | None, dropout: Dropout, *, causal: bool = False) -> Tensor:
        """[B, L, D]."""
        mixed = dropout(self.attention(x_BLD, mask_BL1, causal=causal))
        x_BLD = rms_norm(self.alpha * x_BLD + mixed, self.attention_gain)
        return rms_norm(x_BLD + dropout(self.cms(x_BLD)), self.cms_gain)


def residual_scale(depth: int) -> float:
    """α of a stack of `depth` blocks (Wang et al., "DeepNet", https://arxiv.org/abs/2203.00555)."""
    return (2 * depth) ** 0.25


def initial_scale(depth: int) -> float:
    """β of a stack of `depth` blocks, on the initial weights of values, outputs and the continuum memory."""
    return (8 * depth) ** -0.25

"""MultiModalMemoryNetwork for K runs at once: every weight has a leading axis of runs, and runs cannot mix.

A small network is bound by the number of operators, not by their size: K runs in one pass take little longer than one.
Each form is that of `multimodal_memory.py` with products batched over runs, convolutions as products over windows, and
norms per run; the results are those of K single passes up to rounding.

Shapes: K runs, B batch, M modalities, R = M·B rows, L tokens, N image tokens, D latent, S slots, H heads, C = H·S.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.multimodal_memory import (
    MODALITIES,
    Dropout,
    MultiModalMemoryNetwork,
    at_least_float32,
)

EPSILON = 1e-5  # of every LayerNorm and BatchNorm of the network
MOMENTUM = 0.1  # of the running statistics
VECTOR = 16  # torch's softmax is slow over rows that are shorter than a vector register of float32


def linear(x: Tensor, weight_KOI: Tensor, bias_KO: Tensor | None) -> Tensor:
    """x W^T + b of each run; x is [K, …, I]."""
    rows_KRI = x.flatten(1, -2) if x.dim() > 3 else x
    if bias_KO is None:
        out = torch.bmm(rows_KRI, weight_KOI.transpose(1, 2))
    else:
        out = torch.baddbmm(bias_KO.unsqueeze(1), rows_KRI, weight_KOI.transpose(1, 2))
    return out.unflatten(1, x.shape[1:-1]) if x.dim() > 3 else out


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix products of [K, H, …] tensors, laid out alike for every K: the last bits depend on the layout."""
    return torch.bmm(a.flatten(0, 1).contiguous(), b.flatten(0, 1).contiguous()).unflatten(0, a.shape[:2])


class _Softmax(torch.autograd.Function):
    """Softmax over the last axis by operators on the whole tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        weights = (x - x.amax(dim=-1, keepdim=True)).exp_()
        weights /= weights.sum(dim=-1, keepdim=True)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,), (weights,) = gradients, ctx.saved_tensors
        weighted = gradient * weights
        return weighted.addcmul_(weights, weighted.sum(dim=-1, keepdim=True), value=-1)


def _softmax(x: Tensor) -> Tensor:
    x = at_least_float32(x)
    return _Softmax.apply(x) if x.shape[-1] < VECTOR else x.softmax(dim=-1)


def _attend(q: Tensor, k: Tensor, v: Tensor, dropout: Dropout, mask: Tensor | None) -> Tensor:
    """As `attend`; q, k, v are [K, B, H, L, D / H]."""
    q = q * (1 / math.sqrt(q.shape[-1]))
    one = q.shape[-2] == 1  # products of single rows are slow, and so are their gradients
    scores = (q * k).sum(dim=-1).unsqueeze(-2) if one else torch.matmul(q, k.transpose(-1, -2))
    weights = dropout(_softmax(scores if mask is None else scores + mask))
    return (weights.transpose(-1, -2) * v).sum(dim=-2, keepdim=True) if one else torch.matmul(weights, v)


class _Windows(torch.autograd.Function):
    """The 3 × 3 windows that a convolution of stride 2 and padding 1 sees: [K, B, H, W, C] to [K, B, places, 9 C].

    With them a convolution is one matrix product a run, twice as fast as torch's own at this size.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        (K, B, H, W, C), (rows, columns) = x.shape, halved(x.shape[2:4])
        padded = x.new_zeros(K, B, 2 * rows + 1, 2 * columns + 1, C)
        padded[:, :, 1 : H + 1, 1 : W + 1] = x
        k, b, h, w, c = padded.stride()
        ctx.padded, ctx.image = padded.shape, (H, W)
        windows = padded.as_strided((K, B, rows, columns, 3, 3, C), (k, b, 2 * h, 2 * w, h, w, c))
        return windows.reshape(K, B, rows * columns, 9 * C)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (K, B, *_, C), (H, W), (rows, columns) = ctx.padded, ctx.image, halved(ctx.image)
        windows = gradients[0].view(K, B, rows, columns, 3, 3, C)
        padded = windows.new_zeros(ctx.padded)
        for i in range(3):
            for j in range(3):
                padded[:, :, i : i + 2 * rows : 2, j : j + 2 * columns : 2] += windows[..., i, j, :]
        return padded[:, :, 1 : H + 1, 1 : W + 1]


def halved(sizes: Sequence[int]) -> list[int]:
    """The sizes after a convolution of stride 2, with 3 × 3 kernels and padding 1."""
    return [-(-size // 2) for size in sizes]


class _Standardised(torch.autograd.Function):
    """Columns of mean 0 and variance 1: [K, R, C], and the means and variances [K, C] that they had."""

    @staticmethod
    def forward(ctx: Any, x_KRC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean_K1C = x_KRC.mean(dim=1, keepdim=True)
        centred_KRC = x_KRC - mean_K1C
        variance_K1C = centred_KRC.square().mean(dim=1, keepdim=True)
        inverse_K1C = torch.rsqrt(variance_K1C + EPSILON)
        standard_KRC = centred_KRC.mul_(inverse_K1C)
        ctx.save_for_backward(standard_KRC, inverse_K1C)
        mean_KC, variance_KC = mean_K1C.squeeze(1), variance_K1C.squeeze(1)
        ctx.mark_non_differentiable(mean_KC, variance_KC)
        return standard_KRC, mean_KC, variance_KC

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient_KRC, (standard_KRC, inverse_K1C) = gradients[0], ctx.saved_tensors
        along_K1C = (gradient_KRC * standard_KRC).mean(dim=1, keepdim=True)
        rest_KRC = gradient_KRC - gradient_KRC.mean(dim=1, keepdim=True)
        return rest_KRC.addcmul_(standard_KRC, along_K1C, value=-1).mul_(inverse_K1C)


@dataclass(frozen=True, slots=True)
class _FoldedMemory:
    """As `FoldedMemory`, of each run: score [K, D, C], score_bias [K, C], value [K, C, D], value_bias [K, D]."""

    score: Tensor
    score_bias: Tensor
    value: Tensor
    value_bias: Tensor


class NetworkBank:
    """K networks of one architecture as one; their parameters and buffers become views of the bank's tensors.

    Whatever changes a network's parameters in place (its optimizer) changes the bank's, and the other way round.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        first = networks[0]
        assert isinstance(first, MultiModalMemoryNetwork)
        self._network, self.size = first, len(networks)
        self.weights = {name: _joined([dict(each.named_parameters())[name] for each in networks])
                        for name, _ in first.named_parameters()}  # fmt: skip
        self._buffers = {name: _joined([dict(each.named_buffers())[name] for each in networks])
                         for name, _ in first.named_buffers()}  # fmt: skip
        for weight in self.weights.values():
            weight.requires_grad_()
        self._views = [(parameter, self.weights[name].detach()[k]) for k, network in enumerate(networks)
                       for name, parameter in network.named_parameters()]  # fmt: skip

    def gather(self) -> None:
        """Take over parameters that no longer are views of the bank's: an optimizer may put new tensors in place."""
        for parameter, own in self._views:
            if parameter.data_ptr() != own.data_ptr():
                own.copy_(parameter.detach())
                parameter.data = own

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        dropout: Dropout,
        *,
        training: bool,
    ) -> dict[str, Tensor]:
        """The embedding [K, B, D] of every modality in `inputs` ([K, B, …] each), each seen alone."""
        encodings = {}
        if "text" in inputs:
            text_KBE = self._text(inputs["text"], masks.get("text"), dropout)
            encodings["text"] = self._linear("text_projection", text_KBE)
        if "image" in inputs:
            encodings["image"] = self._image(inputs["image"], dropout)
        if "audio" in inputs:
            encodings["audio"] = self._audio(inputs["audio"], masks.get("audio"), dropout, training=training)
        encodings = {name: self._read(f"memories.{name}", x, self._folded(f"memories.{name}"))
                     for name, x in encodings.items()}  # fmt: skip
        slots = self._folded("central")
        z_KRD = self._read("central", self._fused(encodings, dropout), slots)
        for _ in range(self._network.feedback_steps):
            z_KRD = z_KRD + dropout(F.relu(self._norm("feedback_norm", self._linear("feedback", z_KRD))))
            z_KRD = self._read("central", z_KRD, slots)
        return dict(zip(encodings, z_KRD.chunk(len(encodings), dim=1), strict=True))

    # ------------------------------------------------------------------ parts

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """LayerNorm over the last axis with each run's weight and bias, in float32 at least."""
        x = F.layer_norm(at_least_float32(x), x.shape[-1:], eps=EPSILON)
        shape = (self.size, *[1] * (x.dim() - 2), -1)
        return torch.addcmul(self.weights[f"{name}.bias"].view(shape), x, self.weights[f"{name}.weight"].view(shape))

    def _layer(
        self, name: str, x_KBLD: Tensor, dropout: Dropout, mask: Tensor | None = None, queries: int = 0
    ) -> Tensor:
        weight, bias = self.weights[f"{name}.self_attn.in_proj_weight"], self.weights[f"{name}.self_attn.in_proj_bias"]
        D, H = x_KBLD.shape[-1], self._heads(name)

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (H, -1)).transpose(-2, -3)  # [K, B, L, D] -> [K, B, H, L, D / H]

        if queries and queries < x_KBLD.shape[2]:
            (q_weight, kv_weight), (q_bias, kv_bias) = (x.split([D, 2 * D], dim=1) for x in (weight, bias))
            q = heads(linear(x_KBLD[:, :, :queries], q_weight, q_bias))
            k, v = (heads(part) for part in linear(x_KBLD, kv_weight, kv_bias).chunk(2, dim=-1))
            x_KBLD = x_KBLD[:, :, :queries]
        else:
            q, k, v = (heads(part) for part in linear(x_KBLD, weight, bias).chunk(3, dim=-1))
        mixed = _attend(q, k, v, dropout, mask).transpose(2, 3).flatten(3)
        x_KBLD = self._norm(f"{name}.norm1", x_KBLD + dropout(self._linear(f"{name}.self_attn.out_proj", mixed)))
        hidden = dropout(F.gelu(self._linear(f"{name}.linear1", x_KBLD)))
        return self._norm(f"{name}.norm2", x_KBLD + dropout(self._linear(f"{name}.linear2", hidden)))

    def _heads(self, name: str) -> int:
        layer = self._network.get_submodule(name)
        assert isinstance(layer, nn.TransformerEncoderLayer)
        return layer.self_attn.num_heads

    def _text(self, text_KBL: Tensor, mask_KBL: Tensor | None, dropout: Dropout) -> Tensor:
        table_KVE = self.weights["text_encoder.embedding.weight"]
        first_K = torch.arange(self.size, device=text_KBL.device) * table_KVE.shape[1]
        words = F.embedding(text_KBL + first_K[:, None, None], table_KVE.flatten(0, 1))
        places = self.weights["text_encoder.positions_embedding.weight"][:, None, : text_KBL.shape[2]]
        x_KBLE = dropout(words + places)
        scores = None
        if mask_KBL is not None:
            empty_KB1 = ~mask_KBL.any(dim=2, keepdim=True)
            hidden_KBL = ~(mask_KBL | empty_KB1)
            scores = torch.zeros_like(hidden_KBL, dtype=x_KBLE.dtype).masked_fill_(hidden_KBL, -math.inf)
            scores = scores[:, :, None, None, :]
        for i in range(len(self._network.text_encoder.layers)):
            x_KBLE = self._layer(f"text_encoder.layers.{i}", x_KBLE, dropout, scores)
        if mask_KBL is None:
            return self._norm("text_encoder.norm", x_KBLE.mean(dim=2))
        weight = mask_KBL.unsqueeze(-1).to(x_KBLE.dtype)
        return self._norm("text_encoder.norm", (x_KBLE * weight).sum(dim=2) / weight.sum(dim=2).clamp_min(1))

    def _image(self, image_KB3HW: Tensor, dropout: Dropout) -> Tensor:
        (K, B), encoder = image_KB3HW.shape[:2], self._network.image_encoder
        P = encoder.patches.kernel_size[0]
        grid = image_KB3HW.unflatten(4, (-1, P)).unflatten(3, (-1, P))  # [K, B, 3, rows, P, columns, P]
        pixels = grid.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)
        weight = self.weights["image_encoder.patches.weight"].flatten(2)
        patches = linear(pixels, weight, self.weights["image_encoder.patches.bias"])
        cls = self.weights["image_encoder.cls"].expand(K, B, -1, -1).to(patches.dtype)
        x_KBND = dropout(torch.cat([cls, patches], dim=2) + self.weights["image_encoder.positions"])
        last = len(encoder.layers) - 1
        for i in range(last + 1):
            x_KBND = self._layer(f"image_encoder.layers.{i}", x_KBND, dropout, queries=1 if i == last else 0)
        return self._norm("image_encoder.norm", x_KBND[:, :, 0])

    def _audio(self, audio_KB1FT: Tensor, mask_KBT: Tensor | None, dropout: Dropout, *, training: bool) -> Tensor:
        layers = len(self._network.audio_encoder.convolutions)
        x = audio_KB1FT.movedim(2, -1)  # [K, B, F, T, channels]
        for i in range(layers):
            weight, bias = (self.weights[f"audio_encoder.convolutions.{i}.{part}"] for part in ("weight", "bias"))
            sizes = halved(x.shape[2:4])
            x = linear(_Windows.apply(x), weight.permute(0, 1, 3, 4, 2).flatten(2), bias)
            x = F.relu(self._batch_norm(f"audio_encoder.norms.{i}", at_least_float32(x), training=training))
            x = dropout.channels(x).unflatten(2, sizes)
        if mask_KBT is None:
            mean_KBC = x.mean(dim=(2, 3))
        else:
            weight = mask_KBT[:, :, :: 2**layers, None].to(x.dtype)
            mean_KBC = (x.mean(dim=2) * weight).sum(dim=2) / weight.sum(dim=2).clamp_min(1)
        return self._norm("audio_encoder.norm", self._linear("audio_encoder.projection", mean_KBC))

    def _batch_norm(self, name: str, x_KBPC: Tensor, *, training: bool) -> Tensor:
        mean_KC, variance_KC = (self._buffers[f"{name}.running_{part}"] for part in ("mean", "var"))
        weight, bias = (self.weights[f"{name}.{part}"] for part in ("weight", "bias"))
        x_KRC = x_KBPC.flatten(1, 2)
        if training and x_KRC.shape[1] < 2:
            raise ValueError(f"{name}: a batch of 1 has no variance; batches need 2 samples or more")
        if training:
            x_KRC, own_mean_KC, own_variance_KC = _Standardised.apply(x_KRC)
            rows = x_KRC.shape[1]
            self._buffers[f"{name}.num_batches_tracked"].add_(1)
            mean_KC.lerp_(own_mean_KC, MOMENTUM)
            variance_KC.lerp_(own_variance_KC * (rows / (rows - 1)), MOMENTUM)
        else:
            x_KRC = (x_KRC - mean_KC.unsqueeze(1)) * torch.rsqrt(variance_KC + EPSILON).unsqueeze(1)
        return torch.addcmul(bias.unsqueeze(1), x_KRC, weight.unsqueeze(1)).view_as(x_KBPC)

    def _folded(self, name: str) -> _FoldedMemory:
        weight, bias = (self.weights[f"{name}.attention.in_proj_{part}"] for part in ("weight", "bias"))
        D, H = weight.shape[2], self._network.central.attention.num_heads
        (q_weight, kv_weight), (q_bias, kv_bias) = (x.split([D, 2 * D], dim=1) for x in (weight, bias))
        kv = linear(self.weights[f"{name}.slots"], kv_weight, kv_bias).unflatten(2, (2, H, -1))
        k_KHSd, v_KHSd = kv.permute(2, 0, 3, 1, 4).unbind(0)
        k_KHdS = k_KHSd.transpose(2, 3) * (1 / math.sqrt(D // H))
        # The bias as one more column: products with a single row would round by the number of runs.
        query = torch.cat([q_weight, q_bias.unsqueeze(2)], dim=2).unflatten(1, (H, -1))  # [K, H, D / H, D + 1]
        score_KHDS, bias_KH1S = _product(query.transpose(2, 3), k_KHdS).split([D, 1], dim=2)
        out = self.weights[f"{name}.attention.out_proj.weight"].transpose(1, 2).unflatten(1, (H, -1))
        return _FoldedMemory(
            score=score_KHDS.transpose(1, 2).flatten(2),
            score_bias=bias_KH1S.flatten(1),
            value=_product(v_KHSd, out).flatten(1, 2),
            value_bias=self.weights[f"{name}.attention.out_proj.bias"],
        )

    def _read(self, name: str, q_KRD: Tensor, folded: _FoldedMemory) -> Tensor:
        H = self._network.central.attention.num_heads
        scores_KRC = torch.baddbmm(folded.score_bias.unsqueeze(1), q_KRD, folded.score)
        weights_KRC = _softmax(scores_KRC.unflatten(2, (H, -1))).flatten(2)
        read_KRD = torch.baddbmm(folded.value_bias.unsqueeze(1), weights_KRC, folded.value)
        return self._norm(f"{name}.norm", q_KRD + read_KRD)

    def _fused(self, encodings: Mapping[str, Tensor], dropout: Dropout) -> Tensor:
        """[K, R, D]: the latents of a pass with each modality alone, in the order of `encodings`."""
        types_KMD, weight = self.weights["type_vectors"], self.weights["fusion.expand.weight"]
        M, D = types_KMD.shape[1:]
        types, present = weight.split([M * D, M], dim=2)
        blocks = types.chunk(M, dim=2)
        shared_K1 = linear(types_KMD.flatten(1).unsqueeze(1), types, self.weights["fusion.expand.bias"])
        rows = []
        for name, encoding_KBD in encodings.items():
            m = MODALITIES.index(name)
            rows.append(linear(encoding_KBD, blocks[m], None) + (shared_K1 + present[..., m].unsqueeze(1)))
        hidden = dropout(F.relu(self._norm("fusion.expand_norm", torch.cat(rows, dim=1))))
        return self._norm("fusion.contract_norm", self._linear("fusion.contract", hidden))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors as one with a leading axis, of which they are views from now on."""
    joined = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, own in zip(tensors, joined, strict=True):
        tensor.data = own
    return joined

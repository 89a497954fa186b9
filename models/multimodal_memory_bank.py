"""MultiModalMemoryNetwork for K runs at once: every weight has a leading axis of runs, and runs cannot mix.

A small network is bound by the number of operators, not by their size: K runs in one pass take little longer than one.
Each form is that of `multimodal_memory.py` with products batched over runs, convolutions grouped and norms per run; the
results are those of K single passes up to rounding.

Shapes: K runs, B batch, M modalities, R = M·B rows, L tokens, N image tokens, D latent, S slots, H heads, C = H·S.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.multimodal_memory import (
    MODALITIES,
    Dropout,
    MultiModalMemoryNetwork,
    at_least_float32,
    attend,
)

EPSILON = 1e-5  # of every LayerNorm and BatchNorm of the network


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
            q = heads(linear(x_KBLD[:, :, :queries], weight[:, :D], bias[:, :D]))
            k, v = (heads(part) for part in linear(x_KBLD, weight[:, D:], bias[:, D:]).chunk(2, dim=-1))
            x_KBLD = x_KBLD[:, :, :queries]
        else:
            q, k, v = (heads(part) for part in linear(x_KBLD, weight, bias).chunk(3, dim=-1))
        mixed = attend(q, k, v, dropout, mask).transpose(2, 3).flatten(3)
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
        x = audio_KB1FT
        for i in range(layers):
            # One by one: grouped convolutions are slower here, and their last bits depend on the number of groups.
            weight, bias = (self.weights[f"audio_encoder.convolutions.{i}.{part}"] for part in ("weight", "bias"))
            x = torch.stack([F.conv2d(*each, stride=2, padding=1) for each in zip(x, weight, bias, strict=True)])
            x = F.relu(self._batch_norm(f"audio_encoder.norms.{i}", at_least_float32(x), training=training))
            x = dropout.channels(x)
        if mask_KBT is None:
            mean_KBC = x.mean(dim=(3, 4))
        else:
            weight = mask_KBT[:, :, None, :: 2**layers].to(x.dtype)
            mean_KBC = (x.mean(dim=3) * weight).sum(dim=3) / weight.sum(dim=3).clamp_min(1)
        return self._norm("audio_encoder.norm", self._linear("audio_encoder.projection", mean_KBC))

    def _batch_norm(self, name: str, x_KBCHW: Tensor, *, training: bool) -> Tensor:
        mean, variance = (self._buffers[f"{name}.running_{part}"] for part in ("mean", "var"))
        weight, bias = (self.weights[f"{name}.{part}"] for part in ("weight", "bias"))
        if training:
            self._buffers[f"{name}.num_batches_tracked"].add_(1)
        return torch.stack([F.batch_norm(*each, training=training, eps=EPSILON)
                            for each in zip(x_KBCHW, mean, variance, weight, bias, strict=True)])  # fmt: skip

    def _folded(self, name: str) -> _FoldedMemory:
        weight, bias = (self.weights[f"{name}.attention.in_proj_{part}"] for part in ("weight", "bias"))
        D, H = weight.shape[2], self._network.central.attention.num_heads
        kv = linear(self.weights[f"{name}.slots"], weight[:, D:], bias[:, D:]).unflatten(2, (2, H, -1))
        k_KHSd, v_KHSd = kv.permute(2, 0, 3, 1, 4).unbind(0)
        k_KHdS = k_KHSd.transpose(2, 3) * (1 / math.sqrt(D // H))
        # The bias as one more column: products with a single row would round by the number of runs.
        query = torch.cat([weight[:, :D], bias[:, :D, None]], dim=2).unflatten(1, (H, -1))  # [K, H, D / H, D + 1]
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
        weights_KRC = scores_KRC.unflatten(2, (H, -1)).softmax(dim=-1).flatten(2)
        read_KRD = torch.baddbmm(folded.value_bias.unsqueeze(1), weights_KRC, folded.value)
        return self._norm(f"{name}.norm", q_KRD + read_KRD)

    def _fused(self, encodings: Mapping[str, Tensor], dropout: Dropout) -> Tensor:
        """[K, R, D]: the latents of a pass with each modality alone, in the order of `encodings`."""
        types_KMD, weight = self.weights["type_vectors"], self.weights["fusion.expand.weight"]
        M, D = types_KMD.shape[1:]
        shared_K1 = linear(types_KMD.flatten(1).unsqueeze(1), weight[..., : M * D], self.weights["fusion.expand.bias"])
        rows = []
        for name, encoding_KBD in encodings.items():
            m = MODALITIES.index(name)
            own = linear(encoding_KBD, weight[..., m * D : (m + 1) * D], None)
            rows.append(own + (shared_K1 + weight[..., M * D + m].unsqueeze(1)))
        hidden = dropout(F.relu(self._norm("fusion.expand_norm", torch.cat(rows, dim=1))))
        return self._norm("fusion.contract_norm", self._linear("fusion.contract", hidden))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors as one with a leading axis, of which they are views from now on."""
    joined = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, own in zip(tensors, joined, strict=True):
        tensor.data = own
    return joined

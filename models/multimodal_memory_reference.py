"""MultiModalMemoryNetwork computed the obvious way: torch's own layers, one pass a modality, slots expanded per sample.

The reference of the tests and the yardstick of speed; it runs on the parameters of a `MultiModalMemoryNetwork`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.models.multimodal_memory import MODALITIES, NO_MASKS, Memory, MultiModalMemoryNetwork


def read(memory: Memory, q_BD: Tensor) -> Tensor:
    """A memory read with keys and values projected for every sample."""
    slots_BSD = memory.slots.expand(len(q_BD), -1, -1)
    mixed_B1D, _ = memory.attention(q_BD.unsqueeze(1), slots_BSD, slots_BSD, need_weights=False)
    return memory.norm(q_BD + mixed_B1D.squeeze(1))


def encode(network: MultiModalMemoryNetwork, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
    """One modality's encoding after its own memory, [B, D]."""
    p = network.dropout_probability if network.training else 0.0
    if name == "text":
        encoder = network.text_encoder
        hidden = F.dropout(encoder.embedding(x) + encoder.positions_embedding.weight[: x.shape[1]], p)
        for layer in encoder.layers:
            hidden = layer(hidden, src_key_padding_mask=None if mask is None else ~mask)
        weight = torch.ones_like(x, dtype=hidden.dtype) if mask is None else mask.to(hidden.dtype)
        mean = (hidden * weight.unsqueeze(-1)).sum(1) / weight.sum(1, keepdim=True)
        encoding = network.text_projection(encoder.norm(mean))
    elif name == "image":
        encoder = network.image_encoder
        patches = encoder.patches(x).flatten(2).transpose(1, 2)
        hidden = F.dropout(torch.cat([encoder.cls.expand(len(x), -1, -1), patches], 1) + encoder.positions, p)
        for layer in encoder.layers:
            hidden = layer(hidden)
        encoding = encoder.norm(hidden[:, 0])
    else:
        encoder = network.audio_encoder
        hidden = x
        for convolution, batch_norm in zip(encoder.convolutions, encoder.norms, strict=True):
            hidden = F.dropout2d(F.relu(batch_norm(convolution(hidden))), p)
        frames = [hidden.shape[3]] * len(x) if mask is None else [-(-int(n) // 16) for n in mask.sum(dim=1)]
        mean = torch.stack([clip[:, :, :n].mean(dim=(1, 2)) for clip, n in zip(hidden, frames, strict=True)])
        encoding = encoder.norm(encoder.projection(mean))
    return read(network.memory(name), encoding)


def embed(network: MultiModalMemoryNetwork, name: str, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The embedding [B, D] of a forward pass with modality `name` alone."""
    p = network.dropout_probability if network.training else 0.0
    present = encode(network, name, x, mask)
    blocks = [(present if m == name else torch.zeros_like(present)) + t
              for m, t in zip(MODALITIES, network.type_vectors, strict=True)]  # fmt: skip
    bits = present.new_tensor([float(m == name) for m in MODALITIES]).expand(len(present), -1)
    fusion = network.fusion
    hidden = F.relu(fusion.expand_norm(fusion.expand(torch.cat([*blocks, bits], dim=1))))
    z = fusion.contract_norm(fusion.contract(F.dropout(hidden, p)))
    z = read(network.central, z)
    for _ in range(network.feedback_steps):
        z = z + F.dropout(F.relu(network.feedback_norm(network.feedback(z))), p)
        z = read(network.central, z)
    return z


def forward(
    network: MultiModalMemoryNetwork, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor] = NO_MASKS
) -> dict[str, Tensor]:
    """The embedding of every modality in `inputs`, each from a pass of its own."""
    return {name: embed(network, name, x, masks.get(name)) for name, x in inputs.items()}

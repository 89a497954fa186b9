"""MultiModalMemoryNetwork: text, image and audio through encoders, memories and a fusion to one embedding a modality.

The modules hold the parameters; the functions compute. The forms used here give the straightforward result (see
`multimodal_memory_reference.py`) and cost less: a memory is projected once a step and not once a sample; fusion,
central memory and feedback run on the rows of all modalities at once; the last image layer computes only the CLS
token that is read.

Shapes: B batch, M modalities, R = M·B rows, L tokens, N image tokens, D latent, E text width, S slots, H heads,
C = H·S columns, K head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODALITIES = ("text", "image", "audio")
SLOT_RATE = 0.1  # the test-time-training update's η

# Ordered patterns of parameter names, first match wins; the harness turns them into roles.
ROLES = (
    (r"slots$", "memory_slots"),
    (r"bias$", "bias"),
    (r"embedding\.weight$|positions$|cls$|type_vectors$", "embedding"),
    (r"convolutions\.\d\.weight$|patches\.weight$", "convolution"),
    (r"norm\d?\.weight$|norms\.\d\.weight$|mlp\.1\.weight$|decoders\.\w+\.[15]\.weight$", "norm"),
    (r"decoders\.\w+\.8\.weight$", "head"),
    (r"weight$", "hidden_matrix"),
)


class Dropout(Protocol):
    """The source of dropout masks."""

    def __call__(self, x: Tensor, /) -> Tensor: ...
    def channels(self, x_BCHW: Tensor, /) -> Tensor: ...


class NoDropout:
    """Evaluation: every element passes."""

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def channels(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW


NO_DROPOUT = NoDropout()
NO_MASKS: Mapping[str, Tensor] = {}


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 where it is in half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer normalisation, computed in float32 also where matrices are in half precision."""
    return F.layer_norm(at_least_float32(x), layer.normalized_shape, layer.weight, layer.bias, layer.eps)


def attend(q_HLK: Tensor, k_HSK: Tensor, v_HSK: Tensor, dropout: Dropout, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention with dropout on the weights; leading axes broadcast, `mask` is added to scores."""
    scores = torch.matmul(q_HLK * (1 / math.sqrt(q_HLK.shape[-1])), k_HSK.transpose(-1, -2))
    if mask is not None:
        scores = scores + mask
    return torch.matmul(dropout(torch.softmax(scores, dim=-1)), v_HSK)


def encoder_layer(
    layer: nn.TransformerEncoderLayer, x_BLD: Tensor, dropout: Dropout, mask: Tensor | None = None, queries: int = 0
) -> Tensor:
    """A post-norm Transformer encoder layer; `queries` > 0 computes only the first `queries` tokens."""
    attention, (B, L, D) = layer.self_attn, x_BLD.shape
    H, weight, bias = attention.num_heads, attention.in_proj_weight, attention.in_proj_bias

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (H, -1)).transpose(-2, -3)  # [..., L, H·K] -> [..., H, L, K]

    if queries and queries < L:
        q = heads(F.linear(x_BLD[:, :queries], weight[:D], bias[:D]))
        k, v = (heads(part) for part in F.linear(x_BLD, weight[D:], bias[D:]).chunk(2, dim=-1))
        x_BLD = x_BLD[:, :queries]
    else:
        q, k, v = (heads(part) for part in F.linear(x_BLD, weight, bias).chunk(3, dim=-1))
    mixed = attend(q, k, v, dropout, mask).transpose(1, 2).reshape(B, -1, D)
    x_BLD = norm(layer.norm1, x_BLD + dropout(attention.out_proj(mixed)))
    hidden = dropout(F.gelu(layer.linear1(x_BLD)))
    return norm(layer.norm2, x_BLD + dropout(layer.linear2(hidden)))


def transformer_layers(width: int, heads: int, count: int, factor: int = 4) -> nn.ModuleList:
    """`count` post-norm layers with GELU and a feed-forward of `factor`·width; parameters in torch's own layout."""
    return nn.ModuleList(
        nn.TransformerEncoderLayer(width, heads, factor * width, dropout=0.0, activation="gelu", batch_first=True)
        for _ in range(count)
    )


class TextEncoder(nn.Module):
    """Token ids to one vector of width E: embeddings, L layers, masked mean, LayerNorm."""

    def __init__(
        self, *, vocab_size: int, width: int, max_tokens: int, layers: int, heads: int, factor: int = 4
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions_embedding = nn.Embedding(max_tokens, width)
        self.layers = transformer_layers(width, heads, layers, factor)
        self.norm = nn.LayerNorm(width)

    def forward(self, text_BL: Tensor, mask_BL: Tensor | None, dropout: Dropout) -> Tensor:
        """[B, E]; `mask_BL` is True at real tokens. A row without any token encodes to the norm's bias."""
        dropout = dropout if self.training else NO_DROPOUT  # an encoder that stands still drops nothing
        x_BLE = dropout(self.embedding(text_BL) + self.positions_embedding.weight[: text_BL.shape[1]])
        score_mask = None
        if mask_BL is not None:
            empty_B1 = ~mask_BL.any(dim=1, keepdim=True)  # attends everywhere: a softmax over nothing would be NaN
            hidden_BL = ~(mask_BL | empty_B1)
            score_mask = torch.zeros_like(hidden_BL, dtype=x_BLE.dtype).masked_fill_(hidden_BL, -math.inf)
            score_mask = score_mask[:, None, None, :]
        for layer in self.layers:
            assert isinstance(layer, nn.TransformerEncoderLayer)
            x_BLE = encoder_layer(layer, x_BLE, dropout, score_mask)
        if mask_BL is None:
            return norm(self.norm, x_BLE.mean(dim=1))
        weight_BL1 = mask_BL.unsqueeze(-1).to(x_BLE.dtype)
        return norm(self.norm, (x_BLE * weight_BL1).sum(dim=1) / weight_BL1.sum(dim=1).clamp_min(1))


class ImageEncoder(nn.Module):
    """Image to the CLS vector of a vision Transformer over P × P patches."""

    def __init__(self, *, image_size: int, patch_size: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size is {image_size}; allowed are multiples of patch_size {patch_size}")
        self.patches = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (image_size // patch_size) ** 2 + 1, width) * 0.02)
        self.layers = transformer_layers(width, heads, layers)
        self.norm = nn.LayerNorm(width)

    def forward(self, image_B3HW: Tensor, dropout: Dropout) -> Tensor:
        """[B, D]."""
        return norm(self.norm, self.tokens(image_B3HW, dropout, queries=1)[:, 0])

    def tokens(self, image_B3HW: Tensor, dropout: Dropout, queries: int = 0) -> Tensor:
        """The CLS token and one a patch after all layers; `queries` > 0: only the first so many, [B, queries, D]."""
        dropout = dropout if self.training else NO_DROPOUT
        B, P = len(image_B3HW), self.patches.kernel_size[0]
        # A convolution of stride P is one matrix product over the pixels of each patch.
        grid = image_B3HW.unflatten(3, (-1, P)).unflatten(2, (-1, P))  # [B, 3, rows, P, columns, P]
        pixels = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        patches_BND = F.linear(pixels, self.patches.weight.flatten(1), self.patches.bias)
        cls = self.cls.expand(B, -1, -1).to(patches_BND.dtype)
        x_BND = dropout(torch.cat([cls, patches_BND], dim=1) + self.positions)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, nn.TransformerEncoderLayer)
            x_BND = encoder_layer(layer, x_BND, dropout, queries=queries if i == last else 0)
        return x_BND


class AudioEncoder(nn.Module):
    """Spectrogram to one vector: four stride-2 convolutions, global average, Linear, LayerNorm."""

    def __init__(self, *, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        inputs = (1, *channels[:-1])
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in zip(inputs, channels, strict=True))
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.projection = nn.Linear(channels[-1], width)
        self.norm = nn.LayerNorm(width)

    def forward(self, audio_B1FT: Tensor, mask_BT: Tensor | None, dropout: Dropout) -> Tensor:
        """[B, D]; `mask_BT` is True at real frames: the average leaves out places centred on padding."""
        dropout = dropout if self.training else NO_DROPOUT
        x = audio_B1FT
        for convolution, batch_norm in zip(self.convolutions, self.norms, strict=True):
            x = dropout.channels(F.relu(batch_norm(at_least_float32(convolution(x)))))
        if mask_BT is None:
            return norm(self.norm, self.projection(x.mean(dim=(2, 3))))
        weight_B1T = mask_BT[:, None, :: 2 ** len(self.convolutions)].to(x.dtype)  # place j is centred on frame 16 j
        mean_BC = (x.mean(dim=2) * weight_B1T).sum(dim=2) / weight_B1T.sum(dim=2).clamp_min(1)
        return norm(self.norm, self.projection(mean_BC))


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedMemory:
    """A memory as two matrices over C = H·S columns: a query's scores are q @ score + bias, a read is weights @ value.

    The slots are the same for every sample, so keys can be multiplied with the query projection and values with the
    output projection before any sample is seen.
    """

    heads: int
    score_DC: Tensor
    score_bias_C: Tensor
    value_CD: Tensor
    value_bias_D: Tensor


class Memory(nn.Module):
    """S learnable slots read by attention: read(q) = LayerNorm(q + MHA(q, slots, slots))."""

    def __init__(self, *, slots: int, width: int, heads: int, top_k: int) -> None:
        super().__init__()
        self.top_k = min(top_k, slots)
        self.slots = nn.Parameter(torch.randn(slots, width) * 0.02)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.gate_mlp = self._mlp(width)
        self.value_mlp = self._mlp(width)

    @staticmethod
    def _mlp(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(2 * width, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width))

    def folded(self) -> FoldedMemory:
        """Keys times query projection and values times output projection, once for all reads of a step."""
        attention = self.attention
        D, H = attention.embed_dim, attention.num_heads
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        kv_S2HK = F.linear(self.slots, weight[D:], bias[D:]).unflatten(1, (2, H, -1))
        k_HSK, v_HSK = kv_S2HK.permute(1, 2, 0, 3).unbind(0)
        k_HKS = k_HSK.transpose(1, 2) * (1 / math.sqrt(D // H))
        query_HKD = weight[:D].unflatten(0, (H, -1))
        score_HDS = torch.matmul(query_HKD.transpose(1, 2), k_HKS)
        score_bias_H1S = torch.matmul(bias[:D].view(H, 1, -1), k_HKS)
        value_HSD = torch.matmul(v_HSK, attention.out_proj.weight.T.unflatten(0, (H, -1)))
        return FoldedMemory(
            heads=H,
            score_DC=score_HDS.transpose(0, 1).flatten(1),
            score_bias_C=score_bias_H1S.flatten(),
            value_CD=value_HSD.flatten(0, 1),
            value_bias_D=attention.out_proj.bias,
        )

    def read(self, q_RD: Tensor, folded: FoldedMemory) -> Tensor:
        """[R, D] = LayerNorm(q + attention of q over the slots)."""
        scores_RC = torch.addmm(folded.score_bias_C, q_RD, folded.score_DC)
        weights_RC = scores_RC.unflatten(1, (folded.heads, -1)).softmax(dim=-1).flatten(1)
        return norm(self.norm, q_RD + torch.addmm(folded.value_bias_D, weights_RC, folded.value_CD))

    @torch.no_grad()
    def updated_slots(self, content_BD: Tensor) -> Tensor:
        """The slots [S, D] after one test-time-training update with the batch's mean content; changes nothing itself.

        slot ← slot·(1 − η·gate) + η·gate·value for the top-k slots by slots·c.
        """
        content_D = content_BD.mean(dim=0)
        top = (self.slots @ content_D).topk(self.top_k).indices
        chosen_KD = self.slots[top]
        pair = torch.cat([chosen_KD, content_D.expand_as(chosen_KD)], dim=1)
        gate, value = SLOT_RATE * torch.sigmoid(self.gate_mlp(pair)), self.value_mlp(pair)
        return self.slots.index_copy(0, top, chosen_KD * (1 - gate) + gate * value)


class Fusion(nn.Module):
    """Encodings, type vectors and presence bits to one latent: Linear, LayerNorm, ReLU, dropout, Linear, LayerNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(len(MODALITIES) * (width + 1), 2 * width)
        self.expand_norm = nn.LayerNorm(2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.contract_norm = nn.LayerNorm(width)

    def forward(self, encodings: Mapping[str, Tensor], type_vectors_MD: Tensor, dropout: Dropout) -> Tensor:
        """[R, D]: the latents of a pass with each modality alone, in the order of `encodings`.

        With one modality present, the other blocks of the concatenated input hold only their type vectors: the same
        for all rows, so they are multiplied once.
        """
        M, D = type_vectors_MD.shape
        weight = self.expand.weight
        shared = F.linear(type_vectors_MD.flatten(), weight[:, : M * D], self.expand.bias)
        rows = []
        for name, encoding_BD in encodings.items():
            m = MODALITIES.index(name)
            own = F.linear(encoding_BD, weight[:, m * D : (m + 1) * D])
            rows.append(own + (shared + weight[:, M * D + m]))
        return self._contracted(torch.cat(rows), dropout)

    def together(self, encodings: Mapping[str, Tensor], type_vectors_MD: Tensor, dropout: Dropout) -> Tensor:
        """[B, D]: the latents of one pass in which all of `encodings` are present."""
        M, D = type_vectors_MD.shape
        weight = self.expand.weight
        rows = F.linear(type_vectors_MD.flatten(), weight[:, : M * D], self.expand.bias)
        for name, encoding_BD in encodings.items():
            m = MODALITIES.index(name)
            rows = rows + (F.linear(encoding_BD, weight[:, m * D : (m + 1) * D]) + weight[:, M * D + m])
        return self._contracted(rows, dropout)

    def _contracted(self, rows: Tensor, dropout: Dropout) -> Tensor:
        hidden = dropout(F.relu(norm(self.expand_norm, rows)))
        return norm(self.contract_norm, self.contract(hidden))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """`module` in evaluation mode within the block: running statistics are used and not changed."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def decoder(width: int, out: int, dropout: float) -> nn.Sequential:
    """Two hidden layers of (width + out) // 2, each LayerNorm, ReLU, dropout."""
    hidden = (width + out) // 2
    return nn.Sequential(
        nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(hidden, out),
    )  # fmt: skip


class MultiModalMemoryNetwork(nn.Module):
    """The full network; initial weights come from torch's global generator, which the caller seeds and restores."""

    def __init__(
        self,
        *,
        vocab_size: int,
        text_embed_dim: int,
        text_seq_len: int,
        image_size: int,
        patch_size: int,
        latent_dim: int,
        num_layers: int,
        memory_size: int,
        num_heads: int,
        audio_channels: tuple[int, ...] = (64, 128, 256, 512),
        feedback_steps: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        D, E, L, H = latent_dim, text_embed_dim, num_layers, num_heads
        self.dropout_probability = dropout
        self.feedback_steps = feedback_steps
        self.text_encoder = TextEncoder(vocab_size=vocab_size, width=E, max_tokens=text_seq_len, layers=L, heads=H)
        self.text_projection = nn.Linear(E, D)
        self.image_encoder = ImageEncoder(image_size=image_size, patch_size=patch_size, width=D, layers=L, heads=H)
        self.audio_encoder = AudioEncoder(channels=tuple(audio_channels), width=D)
        self.memories = nn.ModuleDict(
            {name: Memory(slots=memory_size // 2, width=D, heads=H, top_k=4) for name in MODALITIES}
        )
        self.type_vectors = nn.Parameter(torch.randn(len(MODALITIES), D) * 0.02)
        self.fusion = Fusion(D)
        self.central = Memory(slots=memory_size, width=D, heads=H, top_k=8)
        self.feedback = nn.Linear(D, D)
        self.feedback_norm = nn.LayerNorm(D)
        self.decoders = nn.ModuleDict({name: decoder(D, E if name == "text" else D, dropout) for name in MODALITIES})

    def encode(self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor], dropout: Dropout) -> dict[str, Tensor]:
        """Each present modality's encoding after its own memory, [B, D]."""
        return self._read_memories(self._contents(inputs, masks, dropout))

    def _contents(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor], dropout: Dropout
    ) -> dict[str, Tensor]:
        """Each present modality's encoding before its own memory, [B, D]."""
        encodings = {}
        if "text" in inputs:
            encodings["text"] = self.text_projection(self.text_encoder(inputs["text"], masks.get("text"), dropout))
        if "image" in inputs:
            encodings["image"] = self.image_encoder(inputs["image"], dropout)
        if "audio" in inputs:
            encodings["audio"] = self.audio_encoder(inputs["audio"], masks.get("audio"), dropout)
        return encodings

    def _read_memories(self, contents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        memories = {name: self.memory(name) for name in contents}
        return {name: memory.read(contents[name], memory.folded()) for name, memory in memories.items()}

    def memory(self, modality: str) -> Memory:
        """The memory of one modality."""
        memory = self.memories[modality]
        assert isinstance(memory, Memory)
        return memory

    def forward(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor] = NO_MASKS, dropout: Dropout = NO_DROPOUT
    ) -> dict[str, Tensor]:
        """The embedding [B, D] of every modality in `inputs` (text ids, images, spectrograms), each seen alone.

        `masks` are True at real tokens [B, L] and frames [B, T] of the modalities that have padding.
        """
        encodings = self.encode(inputs, masks, dropout)
        return self._embed(encodings, self.fusion(encodings, self.type_vectors, dropout), dropout)

    def _embed(self, encodings: Mapping[str, Tensor], fused_RD: Tensor, dropout: Dropout) -> dict[str, Tensor]:
        """The embedding [B, D] of every modality in `encodings`, whose fused latents are `fused_RD`."""
        return dict(zip(encodings, self._recalled(fused_RD, dropout).chunk(len(encodings)), strict=True))

    def latent(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor] = NO_MASKS, dropout: Dropout = NO_DROPOUT
    ) -> Tensor:
        """[B, D]: the central latent of one pass that sees all modalities in `inputs` together."""
        encodings = self.encode(inputs, masks, dropout)
        return self._recalled(self.fusion.together(encodings, self.type_vectors, dropout), dropout)

    def reconstruction(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor] = NO_MASKS, dropout: Dropout = NO_DROPOUT
    ) -> tuple[Tensor, Tensor]:
        """What the audio decoder makes of text and image seen together, and what it is to be, [B, D] each.

        That is the audio encoder's output in evaluation mode, which gets no gradient.
        """
        seen = {name: inputs[name] for name in ("text", "image")}
        made_BD = self._decoded("audio", self.latent(seen, masks, dropout), dropout)
        with torch.no_grad(), evaluating(self.audio_encoder):
            wanted_BD = self.audio_encoder(inputs["audio"], masks.get("audio"), NO_DROPOUT)
        return made_BD, wanted_BD

    def _recalled(self, fused_RD: Tensor, dropout: Dropout) -> Tensor:
        """Central memory and feedback."""
        slots = self.central.folded()
        z_RD = self.central.read(fused_RD, slots)
        for _ in range(self.feedback_steps):
            z_RD = z_RD + dropout(F.relu(norm(self.feedback_norm, self.feedback(z_RD))))
            z_RD = self.central.read(z_RD, slots)
        return z_RD

    def _decoded(self, modality: str, x_BD: Tensor, dropout: Dropout) -> Tensor:
        """A decoder with dropout masks of the step's stream; its own layers would draw from torch's generator."""
        decoder = self.decoders[modality]
        assert isinstance(decoder, nn.Sequential)
        for layer in decoder:
            if isinstance(layer, nn.Dropout):
                x_BD = dropout(x_BD)
            else:
                x_BD = norm(layer, x_BD) if isinstance(layer, nn.LayerNorm) else layer(x_BD)
        return x_BD

    def test_time_tensors(self) -> list[Tensor]:
        """What `forward_adapting` changes: the slots of all memories."""
        return [*(self.memory(name).slots for name in MODALITIES), self.central.slots]

    @torch.no_grad()
    def forward_adapting(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor] = NO_MASKS
    ) -> dict[str, Tensor]:
        """The embeddings of a batch as in evaluation; after that the memories have taken the batch in, in place.

        A modality's memory is updated with the encodings it has read with, the central one with the fused latents of
        all rows, in float32 whatever the embeddings are computed in.
        """
        contents = self._contents(inputs, masks, NO_DROPOUT)
        encodings = self._read_memories(contents)
        fused_RD = self.fusion(encodings, self.type_vectors, NO_DROPOUT)
        embeddings = self._embed(encodings, fused_RD, NO_DROPOUT)
        taken = [(self.memory(name), content_BD) for name, content_BD in contents.items()]
        with torch.autocast(fused_RD.device.type, enabled=False):
            for memory, content in [*taken, (self.central, fused_RD)]:
                memory.slots.copy_(memory.updated_slots(content.float()))
        return embeddings

"""NL-MM: text, image and audio through fast-weight blocks and a latent memory to one embedding a modality.

After Behrouz et al., "Nested Learning: The Illusion of Deep Learning Architectures", NeurIPS 2025: the levels of its
continuum memory are meant to be updated at different frequencies, which a protocol's `cadence` does.

Shapes: B batch, M modalities, R = M·B rows, L tokens, S latents, D width, V vocabulary, A adapter rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.multimodal_memory import MODALITIES, NO_DROPOUT, NO_MASKS, Dropout, at_least_float32
from bench.models.nlmm_blocks import (
    Block,
    Composition,
    ContinuumMemory,
    FastWeightAttention,
    initial_scale,
    masked_mean,
    residual_scale,
    rms_norm,
)
from bench.models.nlmm_encoders import AudioTokens, ImageTokens, TextTokens

ADAPTER_RATE = 0.1  # of the delta rule; below 2 its error cannot grow

# Ordered patterns of parameter names, first match wins; the harness turns them into roles.
ROLES = (
    (r"latents$", "memory_slots"),
    (r"bias$", "bias"),
    (r"gain$", "norm"),
    (r"embedding\.weight$|positions$", "embedding"),
    (r"convolutions\.\d\.weight$|patches\.weight$", "convolution"),
    (r"^head\.weight$", "head"),
    (r"weight$", "hidden_matrix"),
)


def _float_mask(mask_BL: Tensor | None, like: Tensor) -> Tensor | None:
    """1 at real tokens, 0 at padding, [B, L, 1]."""
    return None if mask_BL is None else mask_BL.unsqueeze(-1).to(at_least_float32(like).dtype)


class NestedMemoryNetwork(nn.Module):
    """The NL-MM network; initial weights come from torch's global generator, which the caller seeds and restores.

    `depth`: blocks of the text, image and audio encoders. `image_positions` and `audio_frames` are the longest inputs
    that have positions. `scale_width`: hidden units of the MLP that scales queries, keys and values.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        text_seq_len: int,
        image_size: int,
        patch_size: int,
        image_positions: int,
        audio_frames: int,
        latent_dim: int,
        num_heads: int,
        depth: Sequence[int],
        mult: int,
        levels: int,
        memory_size: int,
        scale_width: int,
        cms: Composition = "chain",
        adapter_rank: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size is {image_size}; allowed are multiples of patch_size {patch_size}")
        if len(depth) != len(MODALITIES) or min(depth) < 1:
            raise ValueError(f"depth is {list(depth)}; allowed are three counts >= 1: text, image, audio")
        D, H = latent_dim, num_heads
        self.dropout_probability = dropout
        self.tokens = nn.ModuleDict({
            "text": TextTokens(vocab_size=vocab_size, width=D, positions=text_seq_len),
            "image": ImageTokens(patch_size=patch_size, width=D, positions=image_positions),
            "audio": AudioTokens(width=D, positions=audio_frames),
        })  # fmt: skip

        def block(count: int) -> Block:
            scale = initial_scale(count)
            attention = FastWeightAttention(D, H, scale, scale_width=scale_width)
            return Block(attention, ContinuumMemory(D, mult, levels, cms, scale), D, count)

        counts = dict(zip(MODALITIES, depth, strict=True))
        self.blocks = nn.ModuleDict({name: nn.ModuleList(block(n) for _ in range(n)) for name, n in counts.items()})
        self.latents = nn.Parameter(torch.randn(memory_size, D) * 0.02)
        self.latent_attention = FastWeightAttention(D, H, initial_scale(1))
        self.latent_attention_gain, self.latent_gain = nn.Parameter(torch.ones(D)), nn.Parameter(torch.ones(D))
        self.latent_cms = ContinuumMemory(D, mult, levels, cms, initial_scale(1))
        self.head = nn.Linear(D, D)
        self.adapter_in = nn.Parameter(torch.randn(adapter_rank, D) / math.sqrt(D), requires_grad=False)
        self.adapter_out = nn.Parameter(torch.zeros(D, adapter_rank), requires_grad=False)

    def encode(self, modality: str, x: Tensor, mask_BL: Tensor | None, dropout: Dropout) -> Tensor:
        """One modality's tokens [B, L, D] after its blocks; text is causal."""
        embed = self.tokens[modality]
        tokens_BLD = embed(x, mask_BL) if modality == "audio" else embed(x)
        tokens_BLD = dropout(tokens_BLD)
        mask_BL1 = _float_mask(mask_BL, tokens_BLD)
        blocks = self.blocks[modality]
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            tokens_BLD = block(tokens_BLD, mask_BL1, dropout, causal=modality == "text")
        return tokens_BLD

    def _read(self, latents_SD: Tensor, tokens_BLD: Tensor, mask_BL: Tensor | None) -> Tensor:
        """The latents after reading the tokens, [B, S, D]: latents + softmax(latents · tokensᵀ / √D) tokens."""
        scores_BSL = torch.matmul(latents_SD, tokens_BLD.transpose(1, 2)) * (1 / math.sqrt(latents_SD.shape[1]))
        if mask_BL is not None:
            hidden_BL = ~(mask_BL | ~mask_BL.any(dim=1, keepdim=True))  # a softmax over nothing would be NaN
            scores_BSL = scores_BSL.masked_fill(hidden_BL.unsqueeze(1), -math.inf)
            tokens_BLD = tokens_BLD * mask_BL.unsqueeze(-1).to(tokens_BLD.dtype)
        return latents_SD + torch.matmul(scores_BSL.softmax(dim=-1).to(tokens_BLD.dtype), tokens_BLD)

    def _pooled(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor], dropout: Dropout
    ) -> tuple[Tensor, Tensor]:
        """Of all modalities, each seen alone: the mean token with the mean latent added, and that latent, [R, D] both.

        Broadcasting a latent to all tokens and taking their mean is adding it to their mean.
        """
        Z_SD = self.latents
        mixed = self.latent_attention(Z_SD.unsqueeze(0)).squeeze(0)
        Z_SD = rms_norm(residual_scale(1) * Z_SD + mixed, self.latent_attention_gain)
        means, reads = [], []
        for name in (name for name in MODALITIES if name in inputs):
            tokens_BLD = self.encode(name, inputs[name], masks.get(name), dropout)
            means.append(masked_mean(tokens_BLD, _float_mask(masks.get(name), tokens_BLD)))
            reads.append(self._read(Z_SD, tokens_BLD, masks.get(name)))
        read_RSD = torch.cat(reads)
        latent_RD = rms_norm(read_RSD + dropout(self.latent_cms(read_RSD)), self.latent_gain).mean(dim=1)
        return torch.cat(means) + latent_RD, latent_RD

    def _adapted(self, x_RD: Tensor) -> Tensor:
        """x + W_out gelu(W_in x): x itself until test-time training has changed W_out."""
        return x_RD + F.linear(F.gelu(F.linear(x_RD, self.adapter_in)), self.adapter_out)

    def _embeddings(self, inputs: Mapping[str, Tensor], pooled_RD: Tensor) -> dict[str, Tensor]:
        names = [name for name in MODALITIES if name in inputs]
        embeddings_RD = F.normalize(at_least_float32(self.head(self._adapted(pooled_RD))), dim=1)
        return dict(zip(names, embeddings_RD.chunk(len(names)), strict=True))

    def forward(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor] = NO_MASKS, dropout: Dropout = NO_DROPOUT
    ) -> dict[str, Tensor]:
        """The embedding [B, D], of length 1, of every modality in `inputs` (text ids, images, spectrograms), each seen
        alone.

        `masks` are True at real tokens [B, L] and frames [B, T] of the modalities that have padding.
        """
        pooled_RD, _ = self._pooled(inputs, masks, dropout)
        return self._embeddings(inputs, pooled_RD)

    def test_time_tensors(self) -> list[Tensor]:
        """The tensors that `forward_adapting` changes."""
        return [self.adapter_out]

    @torch.no_grad()
    def forward_adapting(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor] = NO_MASKS
    ) -> dict[str, Tensor]:
        """The embeddings as the adapter is now; then one step of the delta rule on it, in place.

        Of each row, h = gelu(W_in x) is the key and what the latent memory has read is the value z:
        W_out ← W_out + η · mean over rows of (z − W_out h) hᵀ / ‖h‖².
        """
        pooled_RD, latent_RD = self._pooled(inputs, masks, NO_DROPOUT)
        embeddings = self._embeddings(inputs, pooled_RD)
        key_RA = F.gelu(F.linear(at_least_float32(pooled_RD), self.adapter_in))
        error_RD = at_least_float32(latent_RD) - F.linear(key_RA, self.adapter_out)
        unit_RA = key_RA / key_RA.square().sum(dim=1, keepdim=True).clamp_min(1e-12)
        self.adapter_out.add_(error_RD.T @ unit_RA, alpha=ADAPTER_RATE / len(key_RA))
        return embeddings

    def language_model_loss(self, text_BL: Tensor, mask_BL: Tensor | None, dropout: Dropout = NO_DROPOUT) -> Tensor:
        """Mean cross-entropy of every real token but the first, given those before it.

        Targets are shifted by one: with the embedding as the output matrix, a token as its own target would only teach
        copying. Zero where no text has a second token.
        """
        tokens_BLD = self.encode("text", text_BL, mask_BL, dropout)[:, :-1]
        text = self.tokens["text"]
        assert isinstance(text, TextTokens)
        logits_NV = F.linear(tokens_BLD, text.embedding.weight).flatten(0, 1)
        losses_N = F.cross_entropy(at_least_float32(logits_NV), text_BL[:, 1:].flatten(), reduction="none")
        if mask_BL is None:
            return losses_N.sum() / max(1, len(losses_N))
        real_N = (mask_BL[:, 1:] & mask_BL[:, :-1]).flatten()
        return (losses_N * real_N).sum() / real_N.sum().clamp_min(1)

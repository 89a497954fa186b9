"""A network for classes that come one after the other whose image tokens meet the prompts before a class head.

The tokens of an image and one token a prompt, that of each class seen so far, go through joint layers of attention
(from image to text, text to image, and within each); the CLS token then goes to a linear head. Every image is fused
with all prompts, in training as at test, so that none comes with the text of its own label. The towers also have
projections, by which the contrastive part of the loss compares them before they are fused.

Shapes: B images, C prompts, L tokens, N image tokens, W width, D of the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.multimodal_memory import (
    NO_DROPOUT,
    NO_MASKS,
    Dropout,
    ImageEncoder,
    TextEncoder,
    encoder_layer,
    norm,
    transformer_layers,
)

# Ordered patterns of parameter names, first match wins; the harness turns them into roles.
ROLES = (
    (r"bias$", "bias"),
    (r"embedding\.weight$|positions$|cls$|type_vectors$", "embedding"),
    (r"patches\.weight$", "convolution"),
    (r"norm\d?\.weight$", "norm"),
    (r"projection\.weight$|^head\.weight$", "head"),
    (r"weight$", "hidden_matrix"),
)


class ContinualFusion(nn.Module):
    """The network for up to `classes`; initial weights come from torch's global generator."""

    def __init__(
        self,
        *,
        vocab_size: int,
        text_seq_len: int,
        image_size: int,
        patch_size: int,
        width: int,
        embedding: int,
        heads: int,
        image_layers: int,
        text_layers: int,
        text_feedforward: int,
        fusion_layers: int,
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dropout_probability = dropout
        self.image_encoder = ImageEncoder(
            image_size=image_size, patch_size=patch_size, width=width, layers=image_layers, heads=heads
        )
        self.text_encoder = TextEncoder(
            vocab_size=vocab_size, width=width, max_tokens=text_seq_len, layers=text_layers, heads=heads,
            factor=text_feedforward,
        )  # fmt: skip
        self.image_projection, self.text_projection = nn.Linear(width, embedding), nn.Linear(width, embedding)
        self.type_vectors = nn.Parameter(torch.randn(2, width) * 0.02)
        self.fusion = transformer_layers(width, heads, fusion_layers)
        self.head_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor] = NO_MASKS, dropout: Dropout = NO_DROPOUT
    ) -> dict[str, Tensor]:
        """Embeddings of "image" [B, D] and of "text" [C, D], the prompts, and "logits" [B, C] of their classes.

        Raises `ValueError` where there are more prompts than classes of the head.
        """
        if (C := len(inputs["text"])) > self.head.out_features:
            raise ValueError(f"the head has {self.head.out_features} classes and there are {C} prompts; allowed are "
                             "model_options.classes of at least as many")  # fmt: skip
        text_CW = self.text_encoder(inputs["text"], masks.get("text"), dropout)
        image_BNW = norm(self.image_encoder.norm, self.image_encoder.tokens(inputs["image"], dropout))
        return {
            "image": self.image_projection(image_BNW[:, 0]),
            "text": self.text_projection(text_CW),
            "logits": self._logits(image_BNW, text_CW, dropout),
        }

    def _logits(self, image_BNW: Tensor, text_CW: Tensor, dropout: Dropout) -> Tensor:
        """[B, C]: the head's on the fused CLS token, in float32 also where matrices are in half precision."""
        text_BCW = (text_CW + self.type_vectors[1]).expand(len(image_BNW), -1, -1)
        x_BTW = torch.cat([image_BNW + self.type_vectors[0], text_BCW], dim=1)
        last = len(self.fusion) - 1
        for i, layer in enumerate(self.fusion):
            assert isinstance(layer, nn.TransformerEncoderLayer)
            x_BTW = encoder_layer(layer, x_BTW, dropout, queries=1 if i == last else 0)
        with torch.autocast(image_BNW.device.type, enabled=False):
            logits_BK = F.linear(norm(self.head_norm, x_BTW[:, 0].float()), self.head.weight, self.head.bias)
        return logits_BK[:, : len(text_CW)]

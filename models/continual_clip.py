"""A light two-tower network for classes that come one after the other: an image belongs to the prompt nearest to it.

The image tower is a vision Transformer whose CLS token is projected, the text tower a Transformer over a prompt's
characters. Their texts are the prompts of all classes seen so far, the same for every image: no image comes with the
text of its own label, in training as at test. Lighter than usual as the documents have it: 5 image layers, 2 text
layers with a feed-forward of 3 times the width, dropout 0.05.

Shapes: B images, C prompts, L tokens, W width of the towers, D of the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.multimodal_memory import NO_DROPOUT, NO_MASKS, Dropout, ImageEncoder, TextEncoder

# Ordered patterns of parameter names, first match wins; the harness turns them into roles.
ROLES = (
    (r"bias$", "bias"),
    (r"embedding\.weight$|positions$|cls$", "embedding"),
    (r"patches\.weight$", "convolution"),
    (r"norm\d?\.weight$", "norm"),
    (r"projection\.weight$", "head"),
    (r"weight$", "hidden_matrix"),
)


def cosine_logits(image_BD: Tensor, text_CD: Tensor, temperature: float) -> Tensor:
    """[B, C]: cosines over `temperature`, in float32 also where matrices are in half precision."""
    with torch.autocast(image_BD.device.type, enabled=False):
        return F.normalize(image_BD.float(), dim=1) @ F.normalize(text_CD.float(), dim=1).T / temperature


class ContinualCLIP(nn.Module):
    """The network; initial weights come from torch's global generator, which the caller seeds and restores."""

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
        dropout: float,
        temperature: float,
    ) -> None:
        super().__init__()
        self.dropout_probability, self.temperature = dropout, temperature
        self.image_encoder = ImageEncoder(
            image_size=image_size, patch_size=patch_size, width=width, layers=image_layers, heads=heads
        )
        self.text_encoder = TextEncoder(
            vocab_size=vocab_size, width=width, max_tokens=text_seq_len, layers=text_layers, heads=heads,
            factor=text_feedforward,
        )  # fmt: skip
        self.image_projection, self.text_projection = nn.Linear(width, embedding), nn.Linear(width, embedding)

    def forward(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor] = NO_MASKS, dropout: Dropout = NO_DROPOUT
    ) -> dict[str, Tensor]:
        """Embeddings of "image" [B, D] and of "text" [C, D], the prompts, and "logits" [B, C] of their classes."""
        text_CD = self.text_projection(self.text_encoder(inputs["text"], masks.get("text"), dropout))
        image_BD = self.image_projection(self.image_encoder(inputs["image"], dropout))
        return {"image": image_BD, "text": text_CD, "logits": cosine_logits(image_BD, text_CD, self.temperature)}

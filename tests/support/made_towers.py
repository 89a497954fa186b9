"""Pretrained towers of random weights, as their libraries write them: small enough for a test to train them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.models.multimodal_memory import TextEncoder

SIZE = 32  # pixels a side
VOCABULARY = 64
TEXT_LENGTH = 12
TEXTS = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
TIMM_ARGUMENTS = {"img_size": SIZE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
BUILTIN_TEXT = {"vocab_size": VOCABULARY, "width": 16, "max_tokens": TEXT_LENGTH, "layers": 1, "heads": 2}
HALF = (0.5, 0.5, 0.5)
OWN_TOWER = """
import torch
from torch import nn

class Mean(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width, self.linear = width, nn.Linear(3, width)

    def forward(self, image, mask):
        return self.linear(image.mean(dim=(2, 3)))

def mean_colour(width):
    return Mean(width)

def no_module(width):
    return dict(width=width)
"""


def make_towers(folder: Path, words: Sequence[str]) -> Path:
    """A folder `towers` with one of each source; texts are of these words."""
    place = folder / "towers"
    place.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _timm(place / "timm")
        _transformers(place)
        _open_clip(place / "open_clip")
        _torchvision(place / "shufflenet.pth")
        torch.save(TextEncoder(**BUILTIN_TEXT).state_dict(), place / "text.pt")
        torch.save({"linear.weight": torch.randn(8, 3), "linear.bias": torch.zeros(8)}, place / "own.pt")
    (place / "own.py").write_text(OWN_TOWER)
    write_tokenizer(place / "mobilebert" / "tokenizer.json", words)
    return place


def write_tokenizer(path: Path, words: Sequence[str]) -> None:
    """Words as BERT's tokenizers have them, with [CLS] and [SEP] around each text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*special, *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[1]))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path))


def write_timm(folder: Path, network: nn.Module, architecture: str, **arguments: Any) -> None:
    """As timm's own files on a hub are laid out: the classifier is among the weights."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    told = {"architecture": architecture, "num_classes": 5, "num_features": 16, "model_args": arguments,
            "pretrained_cfg": {"mean": HALF, "std": HALF, "classifier": "head", "num_classes": 5}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told))


def _timm(folder: Path) -> None:
    from timm.models import VisionTransformer

    write_timm(folder, VisionTransformer(num_classes=5, **TIMM_ARGUMENTS), "vit_tiny_patch16_224", **TIMM_ARGUMENTS)


def _transformers(place: Path) -> None:
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel
    from transformers.utils import logging

    write_mobilebert(place / "mobilebert", max_position_embeddings=16)
    logging.disable_progress_bar()
    texts = {**TEXTS, "max_position_embeddings": 16, "num_hidden_layers": 1}
    BertModel(BertConfig(**texts)).save_pretrained(place / "bert")
    images = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(**images, image_size=SIZE, patch_size=8)).save_pretrained(place / "vit")
    told = {"image_mean": HALF, "image_std": HALF}
    (place / "vit" / "preprocessor_config.json").write_text(json.dumps(told))
    logging.enable_progress_bar()


def write_mobilebert(folder: Path, **settings: int) -> None:
    """As it is published: with the heads of its pretraining."""
    from transformers import MobileBertConfig, MobileBertForPreTraining
    from transformers.utils import logging

    narrow = {"embedding_size": 8, "intra_bottleneck_size": 8, "num_feedforward_networks": 1, "num_hidden_layers": 2}
    logging.disable_progress_bar()
    MobileBertForPreTraining(MobileBertConfig(**TEXTS, **narrow, **settings)).save_pretrained(folder)
    logging.enable_progress_bar()


def _open_clip(folder: Path) -> None:
    from open_clip import CLIP
    from safetensors.torch import save_file

    settings = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": SIZE, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
        "text_cfg": {"context_length": 16, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 1},
    }
    folder.mkdir()
    save_file(CLIP(**settings).state_dict(), folder / "open_clip_model.safetensors")
    told = {"model_cfg": settings, "preprocess_cfg": {"mean": HALF, "std": HALF}}
    (folder / "open_clip_config.json").write_text(json.dumps(told))


def _torchvision(path: Path) -> None:
    from torchvision import models

    torch.save({"state_dict": models.get_model("shufflenet_v2_x0_5", num_classes=5).state_dict()}, path)

"""The built-in workloads."""

from __future__ import annotations

from pydantic import JsonValue

from bench.workload import MEMORY_NETWORK, MODALITIES, Modality, Workload

BANKS = 2  # the revision of small workloads since their networks run in banks, whose sums round otherwise

# Every argument of a dataset's constructor stands here, so that it is in the protocol's hash.
_DOCUMENTS_DATA: dict[str, JsonValue] = {
    "classes": 10, "training": 1000, "validation": 200, "test": 200, "tokens": 16, "vocab_size": 1000,
    "image_size": 64, "audio_size": 64, "data_seed": 0,
}  # fmt: skip
_PAIRED_DATA: dict[str, JsonValue] = {
    "training": 2000, "validation": 500, "test": 500, "classes": 20, "factors": 4, "noise": 0.04, "clutter": 0.05,
    "pixel_noise": 0.1, "bins": 16, "vocab_size": 1000, "image_size": 64, "audio_size": 64, "data_seed": 0,
}  # fmt: skip
_DIGITS_DATA: dict[str, JsonValue] = {
    "training": 2000, "validation": 300, "test": 300, "image_size": 32, "mels": 32, "frames": 64, "data_seed": 0,
}  # fmt: skip
_STUDY_NETWORK: dict[str, JsonValue] = {
    "vocab_size": 1000,
    "text_embed_dim": 256,
    "text_seq_len": 32,
    "image_size": 64,
    "patch_size": 8,
    "latent_dim": 256,
    "num_layers": 3,
    "memory_size": 64,
    "num_heads": 4,
    "audio_channels": [64, 128, 256, 512],
    "feedback_steps": 2,
    "dropout": 0.1,
}
_SMALL_NETWORK: dict[str, JsonValue] = _STUDY_NETWORK | {
    "text_embed_dim": 64,
    "latent_dim": 64,
    "image_size": 32,
    "num_layers": 1,
    "audio_channels": [16, 32, 64, 128],
}

# A ViT-B/16 of timm and MobileBERT of transformers, from files below the data folder (docs/towers.md).
_TOWERS: dict[str, JsonValue] = {
    "towers": {
        "image": {"source": "timm", "path": "towers/vit_base_patch16_224", "mode": "full", "strict": True},
        "text": {"source": "transformers", "path": "towers/mobilebert", "mode": "full", "strict": True,
                 "pooling": "mean"},
    },
    "width": 512,
    "dropout": 0.0,
    "cache": True,
    "vocab_size": 30522,
}  # fmt: skip
_TOWERS_TEXT: dict[str, JsonValue] = {
    "tokenizer": {"kind": "file", "path": "towers/mobilebert/tokenizer.json"}, "text_length": 64,
}  # fmt: skip

# The network of the documents' training on Flickr8k: 43,269,504 parameters.
_FLICKR_NETWORK: dict[str, JsonValue] = _STUDY_NETWORK | {
    "vocab_size": 34,
    "text_embed_dim": 512,
    "text_seq_len": 77,
    "image_size": 224,
    "patch_size": 16,
    "latent_dim": 512,
    "num_layers": 4,
    "memory_size": 128,
    "num_heads": 8,
}
NLMM = "bench.models.nlmm:NestedMemoryNetwork"
# NL-MM in its sizes, by the number of its parameters where the tables of positions are as long as `NLMM_POSITIONS` and
# there are 32,000 words.
NLMM_POSITIONS: dict[str, JsonValue] = {"text_seq_len": 4096, "image_positions": 1024, "audio_frames": 8192}
NLMM_SIZES: dict[str, dict[str, JsonValue]] = {
    "test": {"latent_dim": 64, "num_heads": 4, "depth": [1, 1, 1], "mult": 1, "levels": 3, "memory_size": 4},
    "nano": {"latent_dim": 192, "num_heads": 6, "depth": [2, 2, 2], "mult": 3, "levels": 2, "memory_size": 16},
    "tiny": {"latent_dim": 512, "num_heads": 8, "depth": [6, 6, 6], "mult": 4, "levels": 3, "memory_size": 64},
    "base": {"latent_dim": 768, "num_heads": 12, "depth": [8, 8, 8], "mult": 4, "levels": 3, "memory_size": 64},
}  # nano 13,177,836, tiny 165,602,948, base 455,166,048
_NLMM_WAYS: dict[str, JsonValue] = {"cms": "chain", "adapter_rank": 16, "dropout": 0.1}
_CAPTIONS: dict[str, JsonValue] = {"reader": {}, "captions": "all", "absent": "error", "limit": None, "image": None,
                                   "audio": None}  # fmt: skip
_CHARACTERS: dict[str, JsonValue] = {"tokenizer": {"kind": "character"}, "text_length": 77}
_IMAGE: dict[str, JsonValue] = {"image": {"size": 224, "augment": "none"}}
_CROPPED: dict[str, JsonValue] = {"image": {"size": 224, "augment": "crop_flip"}}
_SPEECH: dict[str, JsonValue] = {"rate": 16000, "n_fft": 400, "window": 400, "hop": 160, "mels": 80}
_MASKS: dict[str, JsonValue] = {"time_masks": 2, "time_width": 40, "frequency_masks": 2, "frequency_width": 15}


def _pieces(vocab_size: int, length: int) -> dict[str, JsonValue]:
    """Byte pairs, fitted on the training captions."""
    return {"tokenizer": {"kind": "bpe", "vocab_size": vocab_size}, "text_length": length}


def _audio(frames: int, **changes: JsonValue) -> dict[str, JsonValue]:
    """Log-mel spectrograms, a frame every 10 ms, masked in training."""
    return {"audio": {"frames": frames, **_SPEECH, "spec_augment": _MASKS, **changes}}


def _captioned(
    name: str,
    title: str,
    modalities: tuple[Modality, ...],
    *options: dict[str, JsonValue],
    network: dict[str, JsonValue] = _FLICKR_NETWORK,
    model: str = MEMORY_NETWORK,
    multi_positive: bool = True,
    revision: int = 1,
) -> Workload:
    """A set of `bench.datasets.catalog`; later `options` win. The vocabulary's size comes from the data."""
    merged: dict[str, JsonValue] = dict(_CAPTIONS)
    for each in options:
        merged |= each
    length = merged["text_length"]
    return Workload(
        name=name, title=title, dataset="bench.datasets.captioned:CaptionedData", dataset_options=merged,
        reads_files=True, model=model, model_options=network | {"text_seq_len": length}, modalities=modalities,
        multi_positive=multi_positive, revision=revision,
    )  # fmt: skip


def _labelled(name: str, title: str) -> Workload:
    """Images of classes, with prompts that name them."""
    return Workload(
        name=name, title=title, dataset="bench.datasets.labelled_images:LabelledImages",
        dataset_options={"name": name, "prompt": "a photo of a {}", "image_size": 32, "validation": 5000,
                         "limit": None, "data_seed": 0},
        reads_files=True, model_options=_SMALL_NETWORK | {"vocab_size": 34, "text_seq_len": 77, "num_layers": 2},
        modalities=("text", "image"), multi_positive=True, revision=BANKS,
    )  # fmt: skip


# The documents' network and data; how many images of a split there are is left to the set.
_TASKS_DATA: dict[str, JsonValue] = {
    "name": "fashion_mnist", "classes_per_task": 2, "epochs_per_task": 10, "replay_share": 0.5, "buffer": 500,
    "sampling": "balanced", "prompt": "a photo of a {}", "image_size": 28, "training_per_class": None,
    "validation_per_class": 500, "test_per_class": None, "data_seed": 0,
}  # fmt: skip
_TASKS_NETWORK: dict[str, JsonValue] = {
    "vocab_size": 34, "text_seq_len": 77, "image_size": 28, "patch_size": 4, "width": 128, "embedding": 128, "heads": 4,
    "image_layers": 5, "text_layers": 2, "text_feedforward": 3, "dropout": 0.05,
}  # fmt: skip
_CLIP: dict[str, JsonValue] = {"temperature": 0.07}
_FUSION: dict[str, JsonValue] = {"fusion_layers": 2, "classes": 10}


def _tasks(
    name: str, title: str, *, network: str = "clip", data: dict[str, JsonValue] | None = None, **options: JsonValue
) -> Workload:
    """Labelled images in tasks; `data` and `options` of the network differ from the documents'."""
    classes = {"clip": "continual_clip:ContinualCLIP", "fusion": "continual_fusion:ContinualFusion"}
    return Workload(
        name=name, title=title, dataset="bench.datasets.continual_images:ContinualImages",
        dataset_options=_TASKS_DATA | (data or {}), reads_files=True, model=f"bench.models.{classes[network]}",
        model_options=_TASKS_NETWORK | (_CLIP if network == "clip" else _FUSION) | options,
        modalities=("text", "image"), kind="continual",
    )  # fmt: skip


_WORDS_AND_IMAGES: tuple[Modality, ...] = ("text", "image")
_WORDS_AND_SOUND: tuple[Modality, ...] = ("text", "audio")
_SMALL_CAPTIONED: dict[str, JsonValue] = _SMALL_NETWORK | {"image_size": 64}
_SMALL_AUDIO = _audio(256, n_fft=512, hop=320, mels=40)
_SMALL_IMAGE: dict[str, JsonValue] = {"image": {"size": 64, "augment": "crop_flip"}}

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload(
            name="documents",
            title="class-only synthetic data of the documents' study",
            dataset="bench.datasets.documents:DocumentsData",
            dataset_options=_DOCUMENTS_DATA,
            model_options=_STUDY_NETWORK,
        ),
        Workload(
            name="paired",
            title="synthetic samples whose modalities share instance factors",
            dataset="bench.datasets.paired:PairedData",
            dataset_options=_PAIRED_DATA,
            model_options=_STUDY_NETWORK,
        ),
        Workload(
            name="paired_small",
            title="paired at width 64, one layer, 32 × 32 pixels and 16 × 16 spectrograms",
            dataset="bench.datasets.paired:PairedData",
            dataset_options=_PAIRED_DATA | {"training": 1000, "image_size": 32, "audio_size": 16},
            model_options=_SMALL_NETWORK,
            revision=BANKS,
        ),
        Workload(
            name="spoken_digits",
            title="MNIST images, spoken digits and their captions",
            dataset="bench.datasets.spoken_digits:SpokenDigits",
            dataset_options=_DIGITS_DATA,
            reads_files=True,
            model_options=_SMALL_NETWORK | {"vocab_size": 34, "num_layers": 2},
            multi_positive=True,
            revision=BANKS,
        ),
        _captioned(
            "flickr8k",
            "Flickr8k images and captions by character, as the documents trained",
            _WORDS_AND_IMAGES,
            {"kind": "flickr8k"},
            _CHARACTERS,
            _IMAGE,
            multi_positive=False,
        ),
        _captioned(
            "flickr8k_bpe",
            "Flickr8k images and captions in byte pairs",
            _WORDS_AND_IMAGES,
            {"kind": "flickr8k"},
            _pieces(8192, 40),
            _IMAGE,
            multi_positive=False,
        ),
        _captioned(
            "flickr8k_audio",
            "Flickr8k images, captions and spoken captions",
            MODALITIES,
            {"kind": "flickr8k"},
            _pieces(8192, 40),
            _IMAGE,
            _audio(800),
        ),
        _captioned(
            "flickr8k_small",
            "Flickr8k images, captions and spoken captions at width 64, 64 × 64 pixels",
            MODALITIES,
            {"kind": "flickr8k", "captions": "one"},
            _pieces(1024, 32),
            _SMALL_IMAGE,
            _SMALL_AUDIO,
            network=_SMALL_CAPTIONED,
            revision=BANKS,
        ),
        _captioned(
            "nlmm",
            "Flickr8k images, captions and spoken captions, for NL-MM",
            MODALITIES,
            {"kind": "flickr8k"},
            _pieces(8192, 40),
            _IMAGE,
            _audio(800),
            network=NLMM_SIZES["tiny"]
            | _NLMM_WAYS
            | {"vocab_size": 8192, "image_size": 224, "patch_size": 16, "audio_frames": 800},
            model=NLMM,
        ),
        Workload(
            name="nlmm_small",
            title="paired_small's data for NL-MM in its test size",
            dataset="bench.datasets.paired:PairedData",
            dataset_options=_PAIRED_DATA | {"training": 1000, "vocab_size": 256, "image_size": 32, "audio_size": 16},
            model=NLMM,
            model_options=NLMM_SIZES["test"]
            | _NLMM_WAYS
            | {
                "vocab_size": 256,
                "text_seq_len": 12,
                "image_size": 32,
                "patch_size": 8,
                "audio_frames": 16,
                "dropout": 0.0,
            },
        ),
        _captioned(
            "flickr30k",
            "Flickr30k images and captions",
            _WORDS_AND_IMAGES,
            {"kind": "flickr30k", "captions": "one"},
            _pieces(8192, 40),
            _CROPPED,
        ),
        Workload(
            name="flickr30k_towers",
            title="Flickr30k images and captions, with pretrained towers from your files",
            dataset="bench.datasets.captioned:CaptionedData",
            dataset_options={**_CAPTIONS, **_IMAGE, **_TOWERS_TEXT, "kind": "flickr30k", "captions": "one"},
            reads_files=True,
            model="bench.models.towers:TowerNetwork",
            model_options=_TOWERS,
            model_reads_files=True,
            modalities=_WORDS_AND_IMAGES,
            multi_positive=True,
        ),
        _captioned(
            "coco",
            "COCO images and captions",
            _WORDS_AND_IMAGES,
            {"kind": "coco", "captions": "one"},
            _pieces(16384, 40),
            _CROPPED,
        ),
        _captioned(
            "audiocaps",
            "AudioCaps sounds and captions",
            _WORDS_AND_SOUND,
            {"kind": "audiocaps", "absent": "excluded"},
            _pieces(4096, 40),
            _audio(1000),
        ),
        _captioned(
            "common_voice",
            "Common Voice sentences and their speech",
            _WORDS_AND_SOUND,
            {"kind": "common_voice"},
            _pieces(8192, 40),
            _audio(800),
        ),
        _captioned(
            "conceptual_captions",
            "Conceptual Captions images and captions",
            _WORDS_AND_IMAGES,
            {"kind": "conceptual_captions", "absent": "excluded"},
            _pieces(16384, 40),
            _CROPPED,
        ),
        _captioned(
            "manifest",
            "a folder of your own with a manifest, at width 64",
            _WORDS_AND_IMAGES,
            {"kind": "manifest"},
            _pieces(4096, 40),
            _SMALL_IMAGE,
            _SMALL_AUDIO,
            network=_SMALL_CAPTIONED,
            revision=BANKS,
        ),
        _labelled("fashion_mnist", "Fashion-MNIST images and their classes in words"),
        _labelled("cifar10", "CIFAR-10 images and their classes in words"),
        _labelled("cifar100", "CIFAR-100 images and their classes in words"),
        _tasks("continual", "Fashion-MNIST in five tasks of two classes, by the nearest prompt"),
        _tasks(
            "continual_speed",
            "the same with 8 epochs a task and 400 replayed images a class",
            data={"epochs_per_task": 8, "buffer": 400},
        ),
        _tasks(
            "continual_accuracy",
            "the same with 15 epochs a task and 700 replayed images a class",
            data={"epochs_per_task": 15, "buffer": 700},
        ),
        _tasks(
            "continual_fusion",
            "Fashion-MNIST in five tasks of two classes, by image and prompts fused",
            network="fusion",
        ),
        _tasks(
            "continual_mini",
            "MNIST's test images in five tasks of two digits, at width 48",
            data={
                "name": "mnist",
                "epochs_per_task": 3,
                "buffer": 100,
                "training_per_class": 400,
                "validation_per_class": 50,
                "test_per_class": 200,
            },
            patch_size=7,
            width=48,
            embedding=48,
            heads=2,
            image_layers=2,
            text_layers=1,
            dropout=0.0,
        ),
    )
}

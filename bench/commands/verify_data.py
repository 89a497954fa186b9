"""`bench verify-data`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.commands.options import AS_JSON, EXIT_FAILED, parse_setting, print_json, progress_console


@click.command("verify-data")
@click.argument("kind")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--no-decode", is_flag=True, help="Look whether images and clips are there, and open none.")
@click.option("--limit", type=click.IntRange(min=2), metavar="N", help="The first N images or clips of each split.")
@click.option("--modalities", metavar="NAMES", help="Of text,image,audio.  [default: all that the set has]")
@click.option("--reader", multiple=True, metavar="KEY=VALUE", help="An option of the set's reader; repeatable.")
@click.option(
    "--tokenizer",
    multiple=True,
    metavar="KIND|KEY=VALUE",
    help="Which tokenizer has to leave something of every caption; repeatable.  [default: that of protocol KIND]",
)
@AS_JSON
def verify_data_command(
    kind: str,
    folder: Path,
    no_decode: bool,
    limit: int | None,
    modalities: str | None,
    reader: Sequence[str],
    tokenizer: Sequence[str],
    as_json: bool,
) -> None:
    """Say what a folder of real data holds, and whether a study can use it.

    KIND is flickr8k, flickr30k, coco, audiocaps, common_voice, conceptual_captions, manifest, spoken_digits,
    fashion_mnist, cifar10 or cifar100; DIR is the set's folder, or one that holds it under that name. Every image and
    clip is opened. Nothing is written. Exit code 0 where everything is there, 1 where something is missing, broken or
    not as the set has it, 2 for bad input. --json prints ok, problems and all that was found, every file by name.
    """
    from bench.terminal import say, screen
    from bench.verification.request import Request
    from bench.verification.text import view
    from bench.verification.verify import verify

    found = verify(
        Request(
            kind=kind,
            folder=folder,
            console=progress_console(),
            modalities=_modalities(modalities),
            reader=_settings("--reader", reader),
            tokenizer=_settings("--tokenizer", tokenizer, bare="kind"),
            limit=limit,
            decode=not no_decode,
        )
    )
    if as_json:
        print_json(found.to_json())
    elif found.faults and not found.splits:
        say(f"error: {'; '.join(found.faults)}", err=True)
    else:
        screen().print(view(found))
    if found.problems:
        sys.exit(EXIT_FAILED)


def _modalities(text: str | None) -> Any:
    """`text,image` to ("text", "image")."""
    from bench.errors import UsageError
    from bench.suggestions import unknown

    known = ("text", "image", "audio")
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    for name in names:
        if name not in known:
            raise UsageError(f"--modalities: {unknown('modality', name, known)}")
    return names


def _settings(option: str, texts: Sequence[str], bare: str | None = None) -> dict[str, Any]:
    """`year=2017` to {"year": 2017}; a text without = is the value of the key `bare`."""
    from bench.errors import UsageError

    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals and bare is not None and key:
            settings[bare] = key
        elif not (key and value):
            raise UsageError(f"{option} {text!r}: allowed is KEY=VALUE")
        else:
            settings |= [parse_setting(text)]
    return settings

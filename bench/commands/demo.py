"""`bench demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.evaluate import usable_weights
from bench.commands.options import AS_JSON, CODE_PROTOCOL, DATA_DIR, DEVICE, WEIGHTS, print_json

if TYPE_CHECKING:
    from bench.datasets.samples import Modality
    from bench.demo import Query
    from bench.weights import Weights

MOST = 10  # nearest items that a picture has room for


@click.command("demo")
@click.argument("checkpoint", type=WEIGHTS)
@click.option("--text", help="Ask with a text.")
@click.option("--image", metavar="FILE", help="Ask with an image.")
@click.option("--audio", metavar="FILE", help="Ask with a sound file.")
@click.option("--item", type=int, metavar="N", help="Ask with an item of the test split, from 0.")
@click.option("--by", type=click.Choice(["text", "image", "audio"]), help="Which of an item asks.  [default: image]")
@click.option("-k", "count", type=click.IntRange(1, MOST), default=5, show_default=True, help="Nearest items to show.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo.png"), show_default=True)
@DATA_DIR
@DEVICE
@CODE_PROTOCOL
@AS_JSON
def demo_command(
    checkpoint: Path,
    text: str | None,
    image: str | None,
    audio: str | None,
    item: int | None,
    by: Modality | None,
    count: int,
    output: Path,
    data_dir: Path | None,
    device: str | None,
    protocol: str | None,
    as_json: bool,
) -> None:
    """Ask a stored network with a text, an image, a sound or an item of the test split.

    Prints the nearest items of every other modality of the test split by cosine similarity, and whether they belong to
    the query where that is known, and draws query and items. --json prints weights, protocol, query, pools, places (of
    the first item that belongs), matches (by modality: item, similarity, belongs, copies, caption).
    """
    import torch

    from bench.demo import ask
    from bench.demo_figure import require_picture, save
    from bench.demo_text import view
    from bench.placement import usable_device
    from bench.terminal import say, screen

    require_picture(output)
    place = torch.device(usable_device(device))
    (weights,) = usable_weights([checkpoint], protocol)
    query = _query({"text": text, "image": image, "audio": audio}, item, by, weights)
    answer = ask(weights, query, count=count, data_dir=data_dir, device=place)
    save(answer, output)
    if as_json:
        print_json(answer.to_json())
    else:
        screen().print(view(answer))
    say(f"drawn in {output}", err=True)


def _query(sources: dict[Modality, str | None], item: int | None, by: Modality | None, weights: Weights) -> Query:
    """The one query that was given; raises `UsageError` where there is none, or more than one."""
    from bench.demo import NEAR, Query
    from bench.errors import UsageError

    given: list[tuple[Modality, str]] = [(name, source) for name, source in sources.items() if source is not None]
    if len(given) + (item is not None) != 1:
        shown = ", ".join([*(f"--{name}" for name, _ in given), *(["--item"] if item is not None else [])]) or "none"
        raise UsageError(f"the query is {shown}; allowed is one of --text, --image, --audio and --item")
    if item is None:
        if by is not None:
            raise UsageError(f"--by {by}: allowed with --item alone")
        return Query(modality=given[0][0], source=given[0][1])
    present = weights.head.protocol.workload.modalities
    return Query(modality=by or next(name for name in NEAR if name in present), item=item)

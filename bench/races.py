"""A race's outcome as it is stored beside the runs: results/<study>/races/<protocol hash>.json."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bench.errors import BadRecordError
from bench.store import require_hash, write_atomic
from bench.stored import read_stored

SCHEMA_VERSION = 1


class Race(BaseModel):
    """A race as far as it has come: `dropped` maps an optimizer to the number of seeds at whose look it fell.

    A stored race also knows whom earlier ones dropped of other optimizers than its own.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    looks: tuple[int, ...]
    alpha: float
    optimizers: tuple[str, ...]
    seeds: tuple[int, ...]
    dropped: dict[str, int]

    def needs(self, optimizer: str, seed: int) -> bool:
        """Whether the optimizer had not fallen before that seed; True of runs that were not in the race."""
        if optimizer not in self.dropped or seed not in self.seeds:
            return True
        return self.seeds.index(seed) < self.dropped[optimizer]


def _path(study: Path, protocol_hash: str) -> Path:
    return study / "races" / f"{protocol_hash}.json"


def write_race(study: Path, protocol_hash: str, race: Race) -> None:
    """Store a race in place of an earlier one, of which stays whom it dropped of other optimizers."""
    try:
        earlier = read_race(study, protocol_hash)
    except BadRecordError:
        earlier = None
    others = {name: look for name, look in (earlier.dropped if earlier else {}).items() if name not in race.optimizers}
    stored = race.model_copy(update={"dropped": others | race.dropped})
    write_atomic(_path(study, protocol_hash), stored.model_dump_json(indent=2) + "\n")


def read_race(study: Path, protocol_hash: str) -> Race | None:
    """The race of a protocol; None without one.

    Raises `BadRecordError` naming a file that is none.
    """
    path = _path(study, require_hash(protocol_hash, str(study)))
    return read_stored(path, Race) if path.exists() else None

"""The JSON Schemas of what a study stores."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import UsageError
from bench.suggestions import unknown

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DIGEST = {
    "type": "string",
    "pattern": "^[0-9a-f]{64}$",
    "description": "SHA-256 of the file's bytes before the comma that stands before this key, which is the last",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A kind of file: where it is in a study's folder, what it holds, and its model as `module:Class`."""

    path: str
    title: str
    model: str


SCHEMAS: Mapping[str, Stored] = {
    "record": Stored(path="runs/<run_id>/run.json", title="one run's result", model="bench.record:RunRecord"),
    "curve": Stored(path="runs/<run_id>/curve.jsonl", title="a run's epochs, one a line",
                    model="bench.record:CurvePoint"),
    "protocol": Stored(path="protocols/<hash>.json", title="the rules of runs", model="bench.protocol:Protocol"),
    "search": Stored(path="searches/<hash>/<optimizer>.json", title="one optimizer's search",
                     model="bench.search.plan:SearchPlan"),
    "race": Stored(path="races/<hash>.json", title="a race's outcome", model="bench.races:Race"),
    "request": Stored(path="requests/<digest>.json", title="runs asked for", model="bench.requests:StudyRequest"),
}  # fmt: skip


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a kind of file as this bench writes it.

    Raises `UsageError` where there is no such kind.
    """
    if name not in SCHEMAS:
        raise UsageError(unknown("schema", name, SCHEMAS))
    module, _, kind = SCHEMAS[name].model.partition(":")
    model = getattr(importlib.import_module(module), kind)
    content = {"$schema": DIALECT, **model.model_json_schema(mode="serialization")}
    if name == "record":
        content["properties"] = {**content["properties"], "sha256": _DIGEST}
        content["required"] = [*content["required"], "sha256"]
    return content

"""`bench schema`: what is printed describes what is stored, and nothing heavy is loaded for it."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.plan import TUNING_SEEDS
from bench.races import Race, write_race
from bench.record import Outcome
from bench.requests import write_request
from bench.schemas import SCHEMAS, schema
from bench.search.plan import Range, SearchPlan, write_plan

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
         "null": type(None)}  # fmt: skip


def faults(value: Any, rules: Any, root: dict[str, Any], place: str = "$") -> list[str]:
    """What of a value is not as the rules say; the part of JSON Schema that pydantic uses for these models."""
    if rules is True or rules == {}:
        return []
    if "$ref" in rules:
        rules = root["$defs"][rules["$ref"].removeprefix("#/$defs/")]
    if "anyOf" in rules:
        return [] if any(not faults(value, one, root) for one in rules["anyOf"]) else [f"{place}: none of anyOf"]
    if "const" in rules or "enum" in rules:
        allowed = rules.get("enum", [rules.get("const")])
        return [] if value in allowed else [f"{place}: {value!r} is none of {allowed}"]
    kind = rules.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [f"{place}: no {kind}"]
    if isinstance(value, str) and "pattern" in rules and not re.search(rules["pattern"], value):
        return [f"{place}: {rules['pattern']}"]
    found: list[str] = []
    if isinstance(value, dict):
        known = rules.get("properties", {})
        found += [f"{place}: {key} is required" for key in rules.get("required", []) if key not in value]
        for key, item in value.items():
            other = rules.get("additionalProperties", True)
            if key not in known and other is False:
                found.append(f"{place}: {key} is not known")
            else:
                found += faults(item, known.get(key, other), root, f"{place}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            found += faults(item, rules.get("items", True), root, f"{place}[{i}]")
    return found


@pytest.fixture
def study(maker: Callable) -> Path:
    """A study with a file of every kind, numbers that are not finite among them."""
    made = maker()
    made.end(made.run("sgd", 0), metrics={"avg_r1": math.nan, "avg_r5": math.inf}, loss=1.0)
    made.end(made.run("sgd", 1), Outcome.DIVERGED)
    write_request(made.store, made.runs(["sgd"], 2), "bench run", race=True)
    write_race(made.path, made.protocol.hash, Race(looks=(3,), alpha=0.05, optimizers=("x",), seeds=(0,), dropped={}))
    write_plan(made.path, SearchPlan(
        protocol_hash=made.protocol.hash, optimizer="sgd", defaults={"lr": 0.1, "betas": [0.9, 0.99], "x": None},
        ranges={"lr": Range(low=0.01, high=1.0, log=True)}, trials=4, seeds=(TUNING_SEEDS,), sampler="sobol",
    ))  # fmt: skip
    return made.path


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_stored_is_what_the_schema_says(name: str, study: Path):
    rules = schema(name)
    files = list(study.glob(re.sub(r"<[a-z_]+>", "*", SCHEMAS[name].path)))
    assert files
    for path in files:
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            content = json.loads(text)
            assert faults(content, rules, rules) == []
            assert faults(content | {"foreign": 1}, rules, rules) == ["$: foreign is not known"]
            for key in rules["required"]:
                less = {k: v for k, v in content.items() if k != key}
                assert faults(less, rules, rules) == [f"$: {key} is required"]


def test_a_record_ends_with_its_digest_and_numbers_may_be_words():
    rules = schema("record")
    assert "sha256" in rules["required"] and rules["properties"]["sha256"]["pattern"] == "^[0-9a-f]{64}$"
    assert rules["properties"]["schema_version"]["const"] == 4
    assert faults("NaN", rules["properties"]["loss"], rules) == []
    assert faults("many", rules["properties"]["loss"], rules) != []


def test_the_list_names_every_kind(bench: Callable):
    listed = bench("schema")
    assert listed.code == 0 and [line.split()[0] for line in listed.out.splitlines()] == list(SCHEMAS)
    assert [row["name"] for row in json.loads(bench("schema", "--json").out)] == list(SCHEMAS)
    assert json.loads(bench("schema", "curve").out) == schema("curve")


def test_an_unknown_name_is_one_line(bench: Callable):
    called = bench("schema", "recrod")
    assert (called.code, called.out) == (2, "")
    assert called.err == (
        "error: unknown schema 'recrod': did you mean 'record'? allowed are curve, protocol, race, record, request, "
        "search\n"
    )


def test_no_schema_waits_for_torch():
    code = (
        "import sys\nfrom bench.schemas import SCHEMAS, schema\n"
        "for name in SCHEMAS: schema(name)\n"
        "assert not {'torch', 'numpy', 'scipy', 'optuna', 'pandas'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

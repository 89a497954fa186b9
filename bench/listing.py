"""What `bench list` prints: optimizers, workloads, protocols and studies as plain rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from bench.workload import Workload

Row = dict[str, Any]


def optimizers(results: Path) -> list[Row]:
    """Every entry with its groups, default settings and needs; imports no optional package."""
    del results
    from bench.optimizers.catalog import CATALOG, GROUPS

    return [
        {
            "name": spec.name,
            "title": spec.title,
            "groups": [group for group, names in GROUPS.items() if spec.name in names],
            "defaults": dict(spec.defaults),
            "documents": None if spec.documents is None else dict(spec.documents),
            "needs": sorted(spec.needs),
            "extra": spec.extra,
            "reference": spec.reference,
        }
        for spec in CATALOG.values()
    ]


def workloads(results: Path) -> list[Row]:
    """Every workload with the number of trainable parameters; at most so many where the data fits a vocabulary."""
    del results
    from bench.workloads import WORKLOADS

    return [
        {
            "name": workload.name,
            "title": workload.title,
            "modalities": list(workload.modalities),
            **_parameters(workload),
            "reads_files": workload.reads_files,
        }
        for workload in WORKLOADS.values()
    ]


def _parameters(workload: Workload) -> Row:
    """The number of parameters; with the largest vocabulary that the tokenizer may find in the data.

    None where it depends on files of the user's.
    """
    if workload.model_reads_files:
        return {"parameters": None, "parameters_at_most": False}
    tokenizer = workload.dataset_options.get("tokenizer")
    asked = tokenizer.get("vocab_size") if isinstance(tokenizer, dict) else None
    count = workload.parameter_count({"vocab_size": asked} if isinstance(asked, int) else None)
    return {"parameters": count, "parameters_at_most": asked is not None}


def protocols(results: Path) -> list[Row]:
    """Every built-in protocol."""
    del results
    from bench.protocols import PROTOCOLS

    return [
        {
            "name": protocol.name,
            "hash": protocol.hash,
            "title": protocol.title,
            "workload": protocol.workload.name,
            "epochs": protocol.epochs,
            "batch_size": protocol.batch_size,
            "precision": protocol.precision,
            "seeds": protocol.seeds,
        }
        for protocol in PROTOCOLS.values()
    ]


def techniques(results: Path) -> list[Row]:
    """Every technique with its options; a protocol has none of them unless it says so."""
    del results
    from bench.techniques.options import Techniques, defaults, description

    return [{"name": name, "options": defaults(name), "title": description(name)} for name in Techniques.model_fields]


def studies(results: Path) -> list[Row]:
    """Every study under `results` with its finished runs."""
    from bench.store import Store
    from bench.study import find_studies

    rows = []
    for path in find_studies(results):
        records, bad = Store(path).records()
        rows.append(
            {
                "name": path.name,
                "runs": len(records),
                "optimizers": len({r.optimizer for r in records}),
                "protocols": sorted({r.protocol.hash for r in records}),
                "unreadable": len(bad),
            }
        )
    return rows


LISTS: Mapping[str, Callable[[Path], list[Row]]] = {
    "optimizers": optimizers,
    "workloads": workloads,
    "protocols": protocols,
    "techniques": techniques,
    "studies": studies,
}
ONLY_IN_JSON = {"documents", "needs", "extra", "reference", "hash", "parameters_at_most"}


def table(title: str, rows: list[Row]) -> Table:
    """The rows as a table for the terminal, the title column last."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    keys = [key for key in (rows[0] if rows else {}) if key not in ONLY_IN_JSON]
    keys.sort(key=lambda key: key == "title")
    for key in keys:
        numeric = isinstance(rows[0][key], int) and not isinstance(rows[0][key], bool)
        fixed = key == "name" or numeric
        shown.add_column(key.replace("_", " "), overflow="fold", no_wrap=fixed, justify="right" if numeric else "left")
    for row in rows:
        shown.add_row(*(escape(_shown(row, key)) for key in keys))
    if extras := sorted({row["extra"] for row in rows if row.get("extra")}):
        shown.caption = escape("; ".join(f"group {extra}: pip install 'optimizer-bench[{extra}]'" for extra in extras))
        shown.caption_justify = "left"
    if not rows:
        shown.add_column("none yet")
    return shown


def _shown(row: Row, key: str) -> str:
    if key == "title":
        return _title(row)
    if row[key] is None:
        return "by its files"
    at_most = "≤ " if key == "parameters" and row["parameters_at_most"] else ""
    return at_most + _cell(row[key])


def _title(row: Row) -> str:
    """The title, and what an optimizer needs beyond a gradient."""
    needs = ", ".join(need.replace("_", " ") for need in row.get("needs", []))
    return f"{row['title']} (needs {needs})" if needs else row["title"]


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(str(v) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)

"""Text tables for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from deployments.core.models.catalog import CATALOG
from deployments.core.models.prompts import templates
from deployments.core.routing.facts import ModelState

_WHY_TWO_IDS = (
    "members answer with the shared ID; requests may still require the space of one model alone, which "
    "the upper table shows"
)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns aligned columns, two spaces apart."""
    cells = [list(header), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = (
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )
    return "\n".join(lines)


def models_table(models: Sequence[dict[str, Any]]) -> str:
    """Returns one line a model, and beneath it why one cannot answer and what to know of it."""
    header = (
        "MODEL",
        "KIND",
        "SIZE",
        "STATE",
        "REPLICAS",
        "DIM",
        "MAX TOKENS",
        "LANGUAGES",
        "SPACE",
        "ON",
    )
    rows = [
        (
            model["id"],
            model.get("kind"),  # a service of an older version sends none
            model["size"],
            model["state"],
            None if model["state"] == ModelState.UNAVAILABLE else model["replicas"],
            model["dimension"],
            model["max_tokens"],
            _languages(model["languages"]),
            model["space_id"],
            " ".join(filter(None, (model["device"], model["dtype"]))) or None,
        )
        for model in models
    ]
    reasons = [f"{m['id']}: {m['reason']}" for m in models if m["reason"]]
    notices = [f"{m['id']}: {notice}" for m in models for notice in m.get("notices", ())]
    return "\n".join([table(header, rows), *reasons, *notices])


def catalog_table() -> str:
    """Returns one line for each model of the catalog."""
    header = (
        "MODEL",
        "HUGGING FACE ID",
        "KIND",
        "SIZE",
        "DIM",
        "MAX TOKENS",
        "LANGUAGES",
        "LICENCE",
        "QUERY READS",
    )
    rows = [
        (
            spec.name,
            spec.repo,
            spec.kind,
            spec.size,
            spec.dimension,
            spec.max_tokens,
            _languages(spec.languages),
            spec.licence,
            json.dumps(templates(spec.prompts).query, ensure_ascii=False),
        )
        for spec in CATALOG.values()
    ]
    return table(header, rows)


def spaces_table(spaces: Sequence[dict[str, Any]]) -> str:
    """Returns one line a configured space, and beneath it why one does not hold and what its ID means."""
    header = ("SPACE", "ID", "STATE", "WORST COSINE", "MEMBERS")
    rows = [
        (
            space["name"],
            space["id"],
            space["state"],
            None if space["worst_cosine"] is None else f"{space['worst_cosine']:.4f}",
            ", ".join(f"{m} ({' '.join(roles)})" for m, roles in space["members"].items()),
        )
        for space in spaces
    ]
    reasons = [f"{s['name']}: {s['reason']}" for s in spaces if s["reason"]]
    notes = [_WHY_TWO_IDS] if any(space["id"] for space in spaces) else []
    return "\n".join([table(header, rows), *reasons, *notes])


def _languages(codes: Sequence[str] | None) -> str | None:
    if not codes:
        return None
    return f"{len(codes)} languages" if len(codes) > 4 else " ".join(codes)


def _cell(value: object) -> str:
    return "-" if value is None else str(value)

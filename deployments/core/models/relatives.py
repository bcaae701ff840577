"""Recognises copies and fine-tunes of the catalog's models that state no prompts of their own.

E5, BGE and others have their prompts on their cards only. A copy of such a model, or a model trained
from it, would be served without them and nobody would notice. So it gets the prompts of the model that it
comes from, and a notice that names the field which settles the matter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployments.core.models.catalog import CATALOG, by_name_or_repo
from deployments.core.models.spec import ModelSpec

_BASE_MODEL = re.compile(
    r"^base_model:[ \t]*(?P<one>\S.*)?\n?(?P<list>(?:[ \t]*- .*\n?)*)", re.MULTILINE
)
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
# words that tell families apart from each other; sizes and versions do not
_NUMBERS = re.compile(r"v?\d[\d.]*[bm]?")
_SIZES = {"xs", "small", "base", "medium", "large", "s", "m", "l"}
_COMMON = _SIZES | {"text", "en", "zh", "multilingual", "instruct", "long"}


def with_prompts_of_relative(spec: ModelSpec, folder: Path, source: str) -> ModelSpec:
    """Returns the description with the prompts of the model that this one comes from, if it has none.

    ``source`` is what the user calls the model: a folder or a hub id.
    """
    if not spec.prompts.are_empty:
        return spec
    relative = relative_of(folder, source)
    if relative is None or relative.prompts.are_empty:
        return spec
    notice = (
        f"{source} states no prompts and looks like {relative.repo}, so it reads texts with the prompts "
        f"of that model's card; set `prompts` in its config to confirm them, or to "
        '`{query: "{text}", document: "{text}"}` if it was trained without'
    )
    return replace(spec, prompts=relative.prompts, notices=(*spec.notices, notice))


def relative_of(folder: Path, source: str) -> ModelSpec | None:
    """Returns the catalog's model that the one in ``folder`` is a copy or a fine-tune of, or None.

    The files say so (``base_model`` of the model card, ``_name_or_path`` of ``config.json``), or the
    name does, together with the architecture.
    """
    config = _config(folder)
    for origin in (*_base_models(folder), str(config.get("_name_or_path", ""))):
        if (known := _named(origin)) is not None:
            return known
    return _by_name(source, config)


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _base_models(folder: Path) -> list[str]:
    """Returns the ``base_model`` entries of a model card's metadata."""
    try:
        card = _FRONT_MATTER.match((folder / "README.md").read_text(errors="replace"))
    except OSError:
        return []
    found = _BASE_MODEL.search(card[1]) if card else None
    if found is None:
        return []
    entries = [found["one"] or "", *re.findall(r"- (.*)", found["list"])]
    return [entry.strip().strip("'\"") for entry in entries if entry.strip()]


def _named(origin: str) -> ModelSpec | None:
    """Returns the model of a hub id, of a name, or of the path of a cached copy."""
    parts = re.split(r"[/\\]", origin.rstrip("/\\"))
    last = parts[-1]
    # sentence-transformers' old cache folders are named owner_name
    return (
        by_name_or_repo("/".join(parts[-2:]))
        or by_name_or_repo(last)
        or by_name_or_repo(last.replace("_", "/", 1))
    )


def _by_name(source: str, config: dict[str, Any]) -> ModelSpec | None:
    """Returns the model of the same architecture whose name has most in common with this one's."""
    words = _words(source.rstrip("/\\").rpartition("/")[2])
    alike = [
        spec
        for spec in CATALOG.values()
        if config.get("model_type") == spec.backbone
        and config.get("hidden_size") == spec.dimension
        and _family(_words(spec.name)) <= words
    ]
    return max(alike, key=lambda spec: len(_words(spec.name) & words), default=None)


def _words(name: str) -> frozenset[str]:
    return frozenset(filter(None, re.split(r"[^a-z0-9.]+", name.lower())))


def _family(words: Iterable[str]) -> frozenset[str]:
    """Returns the words that name a family: `e5` of `multilingual-e5-large`."""
    return frozenset(_telling(words))


def _telling(words: Iterable[str]) -> Iterator[str]:
    return (word for word in words if word not in _COMMON and not _NUMBERS.fullmatch(word))

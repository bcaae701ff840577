"""What is wrong with a config, in words that name the field and the fix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from deployments.config import (
    AppArgs,
    Autoscaling,
    Limits,
    ModelConfig,
    Routing,
    Space,
    SpaceMember,
)

_CLASSES: tuple[type[BaseModel], ...] = (
    AppArgs,
    ModelConfig,
    Autoscaling,
    Limits,
    Routing,
    Space,
    SpaceMember,
)
_FIELDS = frozenset(name for kind in _CLASSES for name in kind.model_fields)
_ADVICE = {
    "model_type": "must be fields with values, such as `name: all-MiniLM-L6-v2`",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
}

Error = Any  # pydantic's ErrorDetails


def explain(error: ValidationError) -> str:
    """Returns the likeliest of the errors: the field's path, and what to do."""
    errors = [e for e in error.errors(include_url=False) if e["type"] != "missing"]
    first = (errors or error.errors(include_url=False))[0]
    # each branch of a union has its own error; the deepest is of the branch that was meant
    rivals = [e for e in errors if _path(e)[: len(_path(first))] == _path(first)] or [first]
    deepest = max(len(_path(e)) for e in rivals)
    meant = [e for e in rivals if len(_path(e)) == deepest]
    own = [e for e in meant if e["type"] == "value_error"] or meant
    said = dict.fromkeys(_words(e) for e in own if _path(e) == _path(own[0]))
    return ": ".join(filter(None, (".".join(map(str, _path(own[0]))), ", or ".join(said))))


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Returns what to say of a key that nobody reads."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"unknown key{f', did you mean `{close[0]}`?' if close else ''}"


def _path(error: Error) -> Sequence[str | int]:
    """The fields on the way, without the labels of unions."""
    *way, last = error["loc"] or ("",)
    kept = [part for part in way if isinstance(part, int) or part in _FIELDS]
    is_label = isinstance(last, str) and last not in _FIELDS and error["type"] != "extra_forbidden"
    return kept if is_label else [*kept, last]


def _words(error: Error) -> str:
    if error["type"] == "extra_forbidden":
        return unknown_key(str(error["loc"][-1]), _FIELDS)
    words: str = _ADVICE.get(error["type"], error["msg"])
    return words.removeprefix("Value error, ").removeprefix("Input ")

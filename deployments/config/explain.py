"""What is wrong with a config, in words that name the field and the fix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from deployments.config.schema import (
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
_ROOTS = {kind.__name__: kind for kind in _CLASSES}
_FIELDS = frozenset(name for kind in _CLASSES for name in kind.model_fields)
_ADVICE = {
    "missing": "is missing",
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
    root = _ROOTS.get(error.title, AppArgs)
    said = dict.fromkeys(_words(e, root) for e in own if _path(e) == _path(own[0]))
    return ": ".join(filter(None, (".".join(map(str, _path(own[0]))), ", or ".join(said))))


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Returns what to say of a key that nobody reads."""
    fields = list(known)
    begun = [field for field in fields if field.startswith(f"{name}_")]
    close = get_close_matches(name, fields, n=1, cutoff=0.7) or begun
    return f"unknown key{f', did you mean `{close[0]}`?' if close else ''}"


def _path(error: Error) -> Sequence[str | int]:
    """The fields on the way, without the labels of unions."""
    *way, last = error["loc"] or ("",)
    kept = [part for part in way if isinstance(part, int) or part in _FIELDS]
    is_label = isinstance(last, str) and last not in _FIELDS and error["type"] != "extra_forbidden"
    return kept if is_label else [*kept, last]


def _words(error: Error, root: type[BaseModel]) -> str:
    if error["type"] == "extra_forbidden":
        return unknown_key(str(error["loc"][-1]), _fields_at(error["loc"][:-1], root))
    if error["type"] == "model_type":
        return f"must be fields with values, such as `{_fields_at(error['loc'], root)[0]}: …`"
    words: str = _ADVICE.get(error["type"], error["msg"])
    return words.removeprefix("Value error, ").removeprefix("Input ")


def _fields_at(way: Iterable[str | int], root: type[BaseModel]) -> list[str]:
    """Returns the fields that there are at the end of a path below ``root``."""
    kind = root
    for part in way:
        if part in kind.model_fields:
            kind = _class_in(kind.model_fields[str(part)].annotation) or kind
    return list(kind.model_fields)


def _class_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _class_in(inner))), None)

"""Turns pydantic's errors into the field that is wrong and a sentence that says what to write there.

The config file, the router's ``user_config`` and request bodies are all explained here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

_SENTENCES = {
    "missing": "is missing",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
}
_MAX_NAME = 64  # of which comparing takes time by its length
# "Input should be …", "String should have …": the field's name stands in front instead
_SUBJECT = re.compile(r"^[A-Z]\w* should ")


@dataclass(frozen=True)
class Problem:
    """What is wrong at one place. ``path`` holds field names, keys and list positions.

    ``kind`` is pydantic's name of the error, ``value`` what was sent; for a field that is missing or
    unknown, ``value`` is the object that should have it, or the field's own value.
    """

    path: tuple[str | int, ...]
    message: str
    kind: str
    value: Any

    @property
    def field(self) -> str:
        """The path with dots between its parts; empty if the whole object is wrong."""
        return ".".join(map(str, self.path))

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.path else self.message


def explain(error: ValidationError, model: type[BaseModel]) -> Problem:
    """Returns the problem that most likely has to be solved first.

    Other errors go before missing fields: a misspelt key causes both. A union reports an error for
    each of its branches. The deepest one belongs to the branch that was meant; alternatives at the
    same depth are joined by "or".
    """
    reported = problems(error, model)
    first = next((p for p in reported if p.kind != "missing"), reported[0])
    rivals = [
        p for p in reported if p.kind != "missing" and p.path[: len(first.path)] == first.path
    ] or [first]
    depth = max(len(p.path) for p in rivals)
    deepest = [p for p in rivals if len(p.path) == depth]
    chosen = next((p for p in deepest if p.kind == "value_error"), deepest[0])
    messages = dict.fromkeys(p.message for p in deepest if p.path == chosen.path)
    message = chosen.message if chosen.kind == "value_error" else ", or ".join(messages)
    return Problem(chosen.path, message, chosen.kind, chosen.value)


def problems(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Returns all of pydantic's errors about ``model``, in its order."""
    annotations = dict(_annotations(model, set()))
    return [
        Problem(
            tuple(_path(e["loc"], e["type"], annotations)),
            _sentence(e, model),
            e["type"],
            e["input"],
        )
        for e in error.errors(include_url=False, include_context=False)
    ]


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Returns the sentence about a key that has no meaning, with the known key that is most like it."""
    fields = list(known)
    begun = [field for field in fields if field.startswith(f"{name}_")]
    close = get_close_matches(name[:_MAX_NAME], fields, n=1, cutoff=0.7) or begun
    return f"unknown key{f', did you mean `{close[0]}`?' if close else ''}"


def _path(
    location: Iterable[str | int], kind: str, annotations: dict[str, Any]
) -> Iterator[str | int]:
    """Leaves out pydantic's labels of the branches of a union, which are not in what was sent."""
    parts = list(location)
    in_mapping = False
    for i, part in enumerate(parts):
        is_unknown_key = kind == "extra_forbidden" and i == len(parts) - 1
        if isinstance(part, int) or part in annotations or in_mapping or is_unknown_key:
            yield part
        in_mapping = get_origin(annotations.get(str(part))) is dict


def _sentence(error: Any, model: type[BaseModel]) -> str:
    if error["type"] == "extra_forbidden":
        *parents, name = error["loc"]
        return unknown_key(str(name), _fields_at(parents, model))
    if error["type"] == "model_type":
        example = _fields_at(error["loc"], model)[0]
        return f"must be fields with values, such as `{example}: …`"
    message: str = _SENTENCES.get(error["type"], error["msg"])
    return _SUBJECT.sub("must ", message.removeprefix("Value error, "))


def _fields_at(path: Iterable[str | int], model: type[BaseModel]) -> list[str]:
    """Returns the names of the fields that may stand at the end of ``path``."""
    for part in path:
        if part in model.model_fields:
            model = _model_in(model.model_fields[str(part)].annotation) or model
    return list(model.model_fields)


def _annotations(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[tuple[str, Any]]:
    """Yields the name and the type of each field of a model and of the models within it."""
    seen.add(model)
    for name, field in model.model_fields.items():
        yield name, field.annotation
        inner = _model_in(field.annotation)
        if inner is not None and inner not in seen:
            yield from _annotations(inner, seen)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in inner if model is not None), None)

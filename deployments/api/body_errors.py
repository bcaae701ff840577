"""The answer to a body that cannot be read: which field is wrong, and what to send instead."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError

from deployments.core.errors import InvalidRequest
from deployments.validation import Problem, explain, problems

_SHAPES = {
    "input": "a text or a list of texts (or token ids, together with `tokenizer`)",
    "query": "a text (for /v1/similarity also a list of texts)",
    "documents": "a list of texts",
}
# their names in text-embeddings-inference, Cohere's API and others
_OTHER_NAMES = {
    "input": ("inputs", "texts", "text", "prompt", "sentences"),
    "query": ("text_1", "source_sentence"),
    "documents": ("texts", "text_2", "sentences", "passages"),
}
_MAX_EXTRAS_COMPARED = 100
_MAX_NAME_COMPARED = 40
_MAX_EXAMINED_BYTES = 262_144  # for an error that names all wrong texts
_MAX_PLACES = 5
_FLOAT32 = "`encoding_format` alone (`float` and `base64` both hold float32)"
# fields of other servers that would change vectors, and what to send here instead
_FOREIGN_FIELDS = {
    "prompt": "`instruction`",
    "prompt_name": "`input_type`",
    "task": "`input_type` or `instruction`",
    "task_type": "`input_type`",
    "output_dimension": "`dimensions`",
    "output_dimensionality": "`dimensions`",
    "truncate_dim": "`dimensions`",
    "truncate_prompt_tokens": "`truncate`",
    "auto_truncate": "`truncate`",
    "truncation": "`truncate`",
    "truncation_direction": "`truncate` alone, which cuts at the end",
    "max_length": "`truncate`, which cuts at the model's own limit",
    "max_seq_length": "`truncate`, which cuts at the model's own limit",
    "max_tokens_per_doc": "`truncate`, which cuts at the model's own limit, or `chunk`",
    "max_chunks_per_doc": "`chunk`, which scores all of a document",
    "pooling": "no such field: each model is pooled as its own files say",
    "query_instruction": "`instruction`",
    "text_type": "`input_type`",
    "is_query": "`input_type`",
    "modality": "only text, without this field",
    "late_chunking": "one text at a time, without this field",
    "add_special_tokens": "texts without this field, which get their model's own special tokens",
    "embed_dtype": _FLOAT32,
    "output_dtype": _FLOAT32,
    "embedding_type": _FLOAT32,
    "embedding_types": _FLOAT32,
    "endianness": "`encoding_format` alone (base64 holds little-endian float32)",
}
# values of those fields that ask for what is done here anyway
_HARMLESS_VALUES: Mapping[str, Sequence[Any]] = {
    "add_special_tokens": (True,),
    "embed_dtype": ("float32", "float"),
    "output_dtype": ("float32", "float"),
    "embedding_type": ("float", ["float"]),
    "embedding_types": ("float", ["float"]),
    "endianness": ("little", "native"),
    "truncation_direction": ("right", "Right"),
}


def body_error(error: ValidationError, kind: type[BaseModel], body: bytes) -> InvalidRequest:
    """Returns the answer to a body that is not of this kind; its ``param`` is the field."""
    reported = problems(error, kind)
    first = reported[0]
    if first.kind == "json_invalid":
        return _not_json(first.message.removeprefix("Invalid JSON: "), body)
    if not first.path:
        return InvalidRequest(f"the body must be a JSON object, such as {_example(kind)}")
    field = str(first.path[0])
    if field in _SHAPES:
        of_field = [problem for problem in reported if problem.path[0] == field]
        return InvalidRequest(_text_advice(field, of_field, body), field)
    return InvalidRequest(f"`{field}` {explain(error, kind).message}", field)


def _not_json(reason: str, body: bytes) -> InvalidRequest:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return InvalidRequest(
            f"the body is not UTF-8: byte 0x{body[error.start]:02X} at position {error.start}; send it "
            "encoded as UTF-8"
        )
    if "hex escape" not in reason and "surrogate" not in reason:
        return InvalidRequest(f"the body is not valid JSON: {reason}")
    return _half_a_pair(reason, body)


def _half_a_pair(reason: str, body: bytes) -> InvalidRequest:
    """Names the texts with half of a surrogate pair, which Python's own parser lets pass."""
    advice = "half of a surrogate pair is not a character"
    for field, value in _items(body).items():
        if len(field) > _MAX_NAME_COMPARED or _has_half_a_pair(field):
            continue
        if not isinstance(value, list):
            if _has_half_a_pair(value):
                return InvalidRequest(f"`{field}` is not valid Unicode: {advice}", field)
        elif places := [i for i, item in enumerate(value) if _has_half_a_pair(item)]:
            verb = "are" if places[1:] else "is"
            return InvalidRequest(
                f"{_places(field, places)} {verb} not valid Unicode: {advice}", field
            )
    return InvalidRequest(f"the body is not valid JSON: {reason}; {advice}")


def _has_half_a_pair(value: Any) -> bool:
    text = _text_of(value)
    if not isinstance(text, str):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _items(body: bytes) -> dict[str, Any]:
    """Returns the fields of a body by Python's own parser; none if it is large or cannot be parsed."""
    if len(body) > _MAX_EXAMINED_BYTES:
        return {}
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _places(field: str, places: Sequence[int]) -> str:
    if not places:
        return f"`{field}`"
    shown = [f"`{field}[{place}]`" for place in places[:_MAX_PLACES]]
    if more := len(places) - len(shown):
        return f"{', '.join(shown)} and {more} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _example(kind: type[BaseModel]) -> str:
    fields = (f'"{name}": …' for name, field in kind.model_fields.items() if field.is_required())
    return f"{{{', '.join(fields)}}}"


def _text_advice(field: str, reported: list[Problem], body: bytes) -> str:
    """Says what is wrong with texts. pydantic has one error for each shape that texts may have."""
    kinds = {problem.kind for problem in reported}
    item = next((i for p in reported if (i := _position_of_non_text(p)) is not None), None)
    if kinds == {"missing"} and reported[0].path == (field,):
        sent = next((name for name in _OTHER_NAMES[field] if name in reported[0].value), None)
        hint = f" (`{sent}` is its name elsewhere)" if sent else ""
        return f"`{field}` is missing{hint}; send {_SHAPES[field]}"
    if "string_too_short" in kinds:
        places = _all_places(body, field, item, lambda value: _text_of(value) == "")
        are = "are empty strings" if places[1:] else "is an empty string"
        return f"{_places(field, places)} {are}: there is nothing in it to embed; leave it out"
    if "too_short" in kinds:
        return f"`{field}` is an empty list; send at least one text"
    if item:  # the items before it are strings, so a list of texts was meant
        places = _all_places(body, field, item, lambda value: not isinstance(_text_of(value), str))
        must_be = "must be strings" if places[1:] else "must be a string"
        return f"{_places(field, places)} {must_be}; `{field}` takes {_SHAPES[field]}"
    return f"`{field}` must be {_SHAPES[field]}"


def _all_places(
    body: bytes, field: str, first: int | None, is_wrong: Callable[[Any], bool]
) -> Sequence[int]:
    """Returns the positions of all wrong items, of which the first is known; empty without a list."""
    if first is None:
        return []
    items = _items(body).get(field)
    others = [i for i, v in enumerate(items) if is_wrong(v)] if isinstance(items, list) else []
    return others if others[:1] == [first] else [first]


def _text_of(item: Any) -> Any:
    return item.get("text") if isinstance(item, dict) else item


def _position_of_non_text(problem: Problem) -> int | None:
    if problem.kind not in ("string_type", "string_too_short"):
        return None
    return next((part for part in problem.path if isinstance(part, int)), None)


def refuse_misleading(extra: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises InvalidRequest for an unknown field that looks like a known one, or that would change
    vectors on another server.
    """
    for name in islice(extra, _MAX_EXTRAS_COMPARED):
        if (
            len(name) > _MAX_NAME_COMPARED
        ):  # comparing takes time by its length, and it is like none
            continue
        if name in _FOREIGN_FIELDS and extra[name] not in (None, *_HARMLESS_VALUES.get(name, ())):
            raise InvalidRequest(f"unknown field `{name}`; send {_FOREIGN_FIELDS[name]}", name)
        if close := get_close_matches(name.lower(), known, n=1, cutoff=0.8):
            raise InvalidRequest(f"unknown field `{name}`; did you mean `{close[0]}`?", name)

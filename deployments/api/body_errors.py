"""The answer to a body that cannot be read: which field is wrong, and what to send instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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


def body_error(error: ValidationError, kind: type[BaseModel]) -> InvalidRequest:
    """Returns the answer to a body that is not of this kind; its ``param`` is the field."""
    reported = problems(error, kind)
    first = reported[0]
    if first.kind == "json_invalid":
        return _not_json(first.message.removeprefix("Invalid JSON: "))
    if not first.path:
        return InvalidRequest(f"the body must be a JSON object, such as {_example(kind)}")
    field = str(first.path[0])
    if field in _SHAPES:
        of_field = [problem for problem in reported if problem.path[0] == field]
        return InvalidRequest(_text_advice(field, of_field), field)
    return InvalidRequest(f"`{field}` {explain(error, kind).message}", field)


def _not_json(reason: str) -> InvalidRequest:
    hint = "; half of a surrogate pair is not a character" if "hex escape" in reason else ""
    return InvalidRequest(f"the body is not valid JSON: {reason}{hint}")


def _example(kind: type[BaseModel]) -> str:
    fields = (f'"{name}": …' for name, field in kind.model_fields.items() if field.is_required())
    return f"{{{', '.join(fields)}}}"


def _text_advice(field: str, reported: list[Problem]) -> str:
    """Says what is wrong with texts. pydantic has one error for each shape that texts may have."""
    kinds = {problem.kind for problem in reported}
    item = next((i for p in reported if (i := _position_of_non_text(p)) is not None), None)
    if kinds == {"missing"} and reported[0].path == (field,):
        sent = next((name for name in _OTHER_NAMES[field] if name in reported[0].value), None)
        hint = f" (`{sent}` is its name elsewhere)" if sent else ""
        return f"`{field}` is missing{hint}; send {_SHAPES[field]}"
    if "string_too_short" in kinds:
        place = field if item is None else f"{field}[{item}]"
        return f"`{place}` is an empty string, which has no meaning to embed; leave it out"
    if "too_short" in kinds:
        return f"`{field}` is an empty list; send at least one text"
    if item:  # the items before it are strings, so a list of texts was meant
        return f"`{field}[{item}]` must be a string; `{field}` takes {_SHAPES[field]}"
    return f"`{field}` must be {_SHAPES[field]}"


def _position_of_non_text(problem: Problem) -> int | None:
    if problem.kind not in ("string_type", "string_too_short"):
        return None
    return next((part for part in problem.path if isinstance(part, int)), None)


def refuse_misleading(extra: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises InvalidRequest for an unknown field that looks like a known one, or that would change
    vectors on another server.
    """
    for name in islice(extra, _MAX_EXTRAS_COMPARED):
        if name in _FOREIGN_FIELDS and extra[name] not in (None, *_HARMLESS_VALUES.get(name, ())):
            raise InvalidRequest(f"unknown field `{name}`; send {_FOREIGN_FIELDS[name]}", name)
        if close := get_close_matches(name.lower(), known, n=1, cutoff=0.8):
            raise InvalidRequest(f"unknown field `{name}`; did you mean `{close[0]}`?", name)

"""What to say of a body that cannot be read: which field it is, and what to send instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any

from pydantic import ValidationError

from deployments.core.errors import InvalidRequest

_SHAPES = {
    "input": "a text or a list of texts (or token ids, together with `tokenizer`)",
    "query": "a text (for /v1/similarity also a list of texts)",
    "documents": "a list of texts",
}
# their names in text-embeddings-inference, Cohere's API and others
_LIKE = {
    "input": ("inputs", "texts", "text", "prompt", "sentences"),
    "query": ("text_1", "source_sentence"),
    "documents": ("texts", "text_2", "sentences", "passages"),
}
_MOST_EXTRAS_LOOKED_AT = 100
_FLOAT32 = "`encoding_format` alone (`float` and `base64` both hold float32)"
# what other servers' clients send that would change vectors, and what says the same here
_OF_OTHERS = {
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
    "pooling": "nothing: each model is pooled as its own files say",
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
# values that ask for what is done here in any case
_HARMLESS: Mapping[str, Sequence[Any]] = {
    "add_special_tokens": (True,),
    "embed_dtype": ("float32", "float"),
    "output_dtype": ("float32", "float"),
    "embedding_type": ("float", ["float"]),
    "embedding_types": ("float", ["float"]),
    "endianness": ("little", "native"),
    "truncation_direction": ("right", "Right"),
}


def explained(error: ValidationError) -> InvalidRequest:
    """Returns the first error of the likeliest branch: unions list one error for every branch."""
    errors = error.errors(include_url=False, include_context=False)
    first = max(errors, key=lambda e: e["type"] == "string_too_short")
    said = first["msg"].removeprefix("Invalid JSON: ").removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        advice = "; half of a surrogate pair is no text" if "hex escape" in said else ""
        return InvalidRequest(f"the body is not valid JSON: {said}{advice}")
    if not first["loc"]:
        return InvalidRequest(f"the body must be a JSON object: {said}")
    field = str(first["loc"][0])
    if field in _SHAPES:
        advice = _text_advice(field, [e for e in errors if e["loc"][0] == field])
        return InvalidRequest(advice, field)
    if said.startswith("Input should"):
        return InvalidRequest(f"`{field}` {said.removeprefix('Input ')}", field)
    return InvalidRequest(f"`{field}`: {said}", field)


def _text_advice(field: str, errors: list[Any]) -> str:
    kinds = {e["type"] for e in errors}
    item = next((i for e in errors if (i := _item_that_is_no_text(e)) is not None), None)
    if errors[0]["loc"] == (field,) and kinds == {"missing"}:
        meant = next((name for name in _LIKE[field] if name in errors[0]["input"]), None)
        instead = f" (`{meant}` is its name elsewhere)" if meant else ""
        return f"`{field}` is missing{instead}; send {_SHAPES[field]}"
    if "string_too_short" in kinds:
        place = field if item is None else f"{field}[{item}]"
        return f"`{place}` is an empty string, which has no meaning to embed; leave it out"
    if "too_short" in kinds:
        return f"`{field}` is an empty list; send at least one text"
    if item:  # those before it are texts
        return f"`{field}[{item}]` is no text; `{field}` must be {_SHAPES[field]}"
    return f"`{field}` must be {_SHAPES[field]}"


def _item_that_is_no_text(error: Any) -> int | None:
    if error["type"] not in ("string_type", "string_too_short"):
        return None
    return next((part for part in error["loc"] if isinstance(part, int)), None)


def refuse_misleading(extra: Mapping[str, Any], ours: Collection[str]) -> None:
    """Raises InvalidRequest for an unknown field that looks like one of ours, or that would change
    vectors elsewhere.
    """
    for name in islice(extra, _MOST_EXTRAS_LOOKED_AT):
        if name in _OF_OTHERS and extra[name] not in (None, *_HARMLESS.get(name, ())):
            raise InvalidRequest(f"unknown field `{name}`; send {_OF_OTHERS[name]} here", name)
        if close := get_close_matches(name.lower(), ours, n=1, cutoff=0.8):
            raise InvalidRequest(f"unknown field `{name}`; did you mean `{close[0]}`?", name)

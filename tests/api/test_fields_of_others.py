"""Fields of other servers are refused if they would change vectors there, else ignored."""

from __future__ import annotations

import pytest

from tests.api.calls import EMBEDDINGS, check_refusal, send


@pytest.mark.parametrize(
    ("field", "value", "advice", "harmless"),
    [
        ("prompt_name", "query", "`input_type`", None),  # text-embeddings-inference
        ("truncate_prompt_tokens", 10, "`truncate`", None),  # vLLM
        ("truncation_direction", "left", "cuts at the end", "right"),  # text-embeddings-inference
        ("auto_truncate", True, "`truncate`", None),
        ("pooling", "cls", "as its own files say", None),
        ("text_type", "query", "`input_type`", None),
        ("task", "retrieval.query", "`input_type`", None),  # Jina
        ("modality", "image", "only text", None),  # Infinity
        ("output_dimension", 256, "`dimensions`", None),  # Voyage
        ("add_special_tokens", False, "own special tokens", True),  # vLLM
        ("embed_dtype", "float16", "both hold float32", "float32"),  # vLLM
        ("endianness", "big", "little-endian", "native"),  # vLLM
        ("endianness", "big", "little-endian", "little"),
        ("embedding_type", "base64", "`encoding_format`", "float"),  # Jina
        ("embedding_types", ["float", "int8"], "`encoding_format`", ["float"]),  # Cohere
    ],
)
async def test_fields_that_change_vectors_elsewhere_are_not_ignored(
    client, field, value, advice, harmless
):
    response = await send(client, EMBEDDINGS, {"input": "a", field: value})
    check_refusal(response, 400, field, "invalid_value", f"`{field}`", advice)
    for other in (None, harmless):
        response = await send(client, EMBEDDINGS, {"input": "a", field: other, "foo": 1})
        assert response.status_code == 200

"""What is said of a config that cannot be used: the field that is meant, where it stands."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from deployments.config.explain import explain
from deployments.config.schema import AppArgs, Routing

MINILM = {"name": "all-MiniLM-L6-v2"}
PAIR = [{"model": "a"}, {"model": "b"}]


def said(kind, content):
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(content)
    return explain(refused.value)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"model": [MINILM]}, "model: unknown key, did you mean `models`?"),
        ({"models": [{**MINILM, "max_tokens": 512}]}, "models.0.max_tokens: unknown key"),
        (
            {"models": [{**MINILM, "replicas": {"min": 0}}]},
            "models.0.replicas.min: unknown key, did you mean `min_replicas`?",
        ),
        (
            {"models": [{**MINILM, "replicas": 0}]},
            "models.0.replicas: should be greater than 0, or must be fields with values, such as "
            "`min_replicas: …`",
        ),
        ({"models": ["a"]}, "models.0: must be fields with values, such as `name: …`"),
        ({}, "models: is missing"),
        ({"models": [MINILM], "limits": {"name": 1}}, "limits.name: unknown key"),
        ({"models": [{"name": "auto", "path": "/x"}]}, "a model cannot be named 'auto'"),
    ],
)
def test_what_is_said(args, words):
    found = said(AppArgs, args)
    assert found.startswith(words)
    assert "did you mean" not in found or "did you mean" in words


def test_what_is_said_of_a_part_of_it():
    spaces = [{"name": "pair", "members": PAIR, "flor": 0.5}]
    assert said(Routing, {"spaces": spaces}).endswith("flor: unknown key, did you mean `floor`?")

"""From pydantic's errors to the field that is wrong and what to write there."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from deployments.api.requests import EmbeddingRequest, RerankRequest
from deployments.config.schema import AppArgs, Routing
from deployments.validation import Problem, explain, problems

MINILM = {"name": "all-MiniLM-L6-v2"}
PAIR = [{"model": "a"}, {"model": "b"}]


def refusal(model, content) -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(content)
    return refused.value


def explained(model, content) -> Problem:
    return explain(refusal(model, content), model)


@pytest.mark.parametrize(
    ("args", "field", "words"),
    [
        ({"model": [MINILM]}, "model", "unknown key, did you mean `models`?"),
        ({"models": [{**MINILM, "max_length": 512}]}, "models.0.max_length", "unknown key"),
        (
            {"models": [{**MINILM, "replicas": {"min": 0}}]},
            "models.0.replicas.min",
            "unknown key, did you mean `min_replicas`?",
        ),
        ({"models": [{**MINILM, "replicas": 0}]}, "models.0.replicas", "must be a whole number"),
        ({"models": [{**MINILM, "threads": "x"}]}, "models.0.threads", "must be a whole number"),
        ({"models": [{**MINILM, "num_cpus": -1}]}, "models.0.num_cpus", "must be greater than"),
        (
            {"models": [{**MINILM, "resources": {"disk": "x"}}]},
            "models.0.resources.disk",
            "must be",
        ),
        ({"models": ["a"]}, "models.0", "must be fields with values, such as `name: …`"),
        ({"models": MINILM}, "models", "must be a list"),
        ({}, "models", "is missing"),
        ({"models": [MINILM], "limits": {"name": 1}}, "limits.name", "unknown key"),
        ({"models": [{"name": "auto", "path": "/x"}]}, "", "a model cannot be named 'auto'"),
    ],
)
def test_a_config(args, field, words):
    problem = explained(AppArgs, args)
    assert problem.field == field
    assert problem.message.startswith(words)
    assert "did you mean" not in problem.message or "did you mean" in words
    assert str(problem) == (f"{field}: {problem.message}" if field else problem.message)


@pytest.mark.parametrize(
    ("user_config", "field", "words"),
    [
        ({"spaces": [{"name": "pair", "members": PAIR, "flor": 0.5}]}, "spaces.0.flor", "`floor`"),
        ({"sizes": {"a": "tiny"}}, "sizes.a", "must be 'small', 'medium' or 'large'"),
        (["aim"], "", "such as `aim: …`"),
    ],
)
def test_a_user_config(user_config, field, words):
    problem = explained(Routing, user_config)
    assert problem.field == field
    assert words in problem.message


def test_an_error_goes_before_a_missing_field():
    problem = explained(AppArgs, {"truncate": "perhaps"})
    assert (problem.field, problem.kind) == ("truncate", "bool_parsing")


@pytest.mark.parametrize(
    ("model", "body", "paths"),
    [
        (EmbeddingRequest, {"input": "a", "dimensions": "8"}, {("dimensions",)}),
        (RerankRequest, {"query": "a", "documents": [{"text": ""}]}, {("documents", 0, "text")}),
        (RerankRequest, {"query": "a", "documents": ["a", 1]}, {("documents", 1)}),
        (EmbeddingRequest, {"input": ["a", 1]}, {("input", 1), ("input", 0), ("input",)}),
    ],
)
def test_paths_leave_out_the_branches_of_a_union(model, body, paths):
    found = {problem.path for problem in problems(refusal(model, body), model)}
    assert found >= paths
    assert all(part in {"text", *body} for path in found for part in path if isinstance(part, str))

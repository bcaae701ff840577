"""The exact text that each model of the catalog reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.errors import InvalidRequest
from deployments.core.models.catalog import CATALOG
from deployments.core.models.prompts import render
from deployments.core.models.spec import Role

WEB = "Given a web search query, retrieve relevant passages that answer the query"
WIKIPEDIA = "Given a question, retrieve Wikipedia passages that answer the question"
# model, role, instruction, what the model reads for "x"
READS = [
    ("all-MiniLM-L6-v2", Role.QUERY, None, "x"),
    ("all-MiniLM-L6-v2", Role.DOCUMENT, None, "x"),
    ("e5-small", Role.QUERY, None, "query: x"),
    ("e5-small", Role.DOCUMENT, None, "passage: x"),
    ("e5-small-v2", Role.QUERY, None, "query: x"),
    ("e5-small-v2", Role.DOCUMENT, None, "passage: x"),
    ("multilingual-e5-large-instruct", Role.QUERY, None, f"Instruct: {WEB}\nQuery: x"),
    ("multilingual-e5-large-instruct", Role.QUERY, "Find {0}", "Instruct: Find {0}\nQuery: x"),
    ("multilingual-e5-large-instruct", Role.DOCUMENT, None, "x"),
    ("e5-mistral-7b-instruct", Role.QUERY, None, f"Instruct: {WEB}\nQuery: x"),
    ("e5-mistral-7b-instruct", Role.QUERY, "Find {0}", "Instruct: Find {0}\nQuery: x"),
    ("e5-mistral-7b-instruct", Role.DOCUMENT, None, "x"),
    ("linq-embed-mistral", Role.QUERY, None, f"Instruct: {WIKIPEDIA}\nQuery: x"),
    ("linq-embed-mistral", Role.QUERY, "Find {0}", "Instruct: Find {0}\nQuery: x"),
    ("linq-embed-mistral", Role.DOCUMENT, None, "x"),
]
INSTRUCT = [name for name, spec in CATALOG.items() if spec.takes_instruction]


@pytest.mark.parametrize(("name", "role", "instruction", "reads"), READS)
def test_what_the_model_reads(name, role, instruction, reads):
    assert render(CATALOG[name], ["x"], role, instruction) == [reads]


def test_every_model_and_role_is_above():
    assert {(name, role) for name, role, _, _ in READS} == {(n, r) for n in CATALOG for r in Role}


@pytest.mark.parametrize("name", CATALOG)
@given(texts=st.lists(st.text()))
def test_the_callers_text_is_never_changed(name, texts):
    for role in Role:
        read = render(CATALOG[name], texts, role)
        assert len(read) == len(texts)
        assert all(after.endswith(text) for after, text in zip(read, texts, strict=True))


@pytest.mark.parametrize("name", INSTRUCT)
def test_documents_take_no_instruction(name):
    with pytest.raises(InvalidRequest, match="for queries only"):
        render(CATALOG[name], ["x"], Role.DOCUMENT, "Find it")


@pytest.mark.parametrize("name", sorted(set(CATALOG) - set(INSTRUCT)))
@pytest.mark.parametrize("role", Role)
def test_other_models_take_no_instruction(name, role):
    with pytest.raises(InvalidRequest, match="takes no instruction"):
        render(CATALOG[name], ["x"], role, "Find it")

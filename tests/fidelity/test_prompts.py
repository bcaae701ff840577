"""The exact text that each model of the catalog reads."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.errors import InvalidRequest
from deployments.core.models.catalog import CATALOG
from deployments.core.models.prompts import render
from deployments.core.models.spec import Role

WEB = "Given a web search query, retrieve relevant passages that answer the query"
WIKIPEDIA = "Given a question, retrieve Wikipedia passages that answer the question"
SEARCH = "Represent this sentence for searching relevant passages: x"
# what the models whose names match read for the query "x" and the document "x", as their cards say
READS = {
    r"e5-(small|base|large)(-v2)?|multilingual-e5-(small|base|large)": ("query: x", "passage: x"),
    r"multilingual-e5-large-instruct|e5-mistral.*|SFR-.*": (f"Instruct: {WEB}\nQuery: x", "x"),
    r"linq-.*": (f"Instruct: {WIKIPEDIA}\nQuery: x", "x"),
    r"Qwen3-Embedding-.*": (f"Instruct: {WEB}\nQuery:x", "x"),
    r"Qwen3-Reranker-.*": (f"<Instruct>: {WEB}\n<Query>: x", "\n<Document>: x"),
    r"bge-(small|base|large)-en-v1.5|mxbai-embed-.*": (SEARCH, "x"),
    r"bge-(small|base|large)-zh-v1.5": ("为这个句子生成表示以用于检索相关文章：x", "x"),
    r"snowflake-arctic-embed-(xs|s|m|l|m-v1.5)": (SEARCH, "x"),
    r"snowflake-arctic-embed-.-v2.0": ("query: x", "x"),
    r"nomic-.*": ("search_query: x", "search_document: x"),
    r"embeddinggemma-.*": ("task: search result | query: x", "title: none | text: x"),
    r"all-.*|multi-qa-.*|paraphrase-.*|LaBSE|bge-m3|gte-.*|granite-.*": ("x", "x"),
    r"ms-marco-.*|bge-reranker-.*|mxbai-rerank-.*": ("x", "x"),
}
INSTRUCT = [name for name, spec in CATALOG.items() if spec.takes_instruction]


def reads(name: str) -> tuple[str, str]:
    """What a model reads for a query and for a document; no name matches twice."""
    (actual,) = [texts for pattern, texts in READS.items() if re.fullmatch(pattern, name)]
    return actual


@pytest.mark.parametrize("name", CATALOG)
def test_what_the_model_reads(name):
    spec = CATALOG[name]
    assert tuple(render(spec, ["x"], role)[0] for role in Role) == reads(name)


@pytest.mark.parametrize("name", INSTRUCT)
def test_an_instruction_of_the_callers_own(name):
    query, document = reads(name)
    expected = query.replace(WEB, "Find {0}").replace(WIKIPEDIA, "Find {0}")
    assert render(CATALOG[name], ["x"], Role.QUERY, "Find {0}") == [expected]
    assert "Find {0}" in expected
    assert document == ("\n<Document>: x" if "Reranker" in name else "x")


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

"""The catalog's entries keep the rules that all of them share."""

from __future__ import annotations

import re

import pytest

from deployments.core.models.catalog import (
    CATALOG,
    REFUSED,
    by_name_or_repo,
    catalog_model,
    did_you_mean,
    refusal,
)
from deployments.core.models.prompts import INSTRUCTION
from deployments.core.models.spec import Kind, Pooling, Size, SpecialTokens

SPECS = list(CATALOG.values())
DECODERS = {"mistral", "qwen3"}
# their cards' architectures end without a normalisation
UNNORMALISED = {
    "multi-qa-mpnet-base-dot-v1",
    "paraphrase-multilingual-MiniLM-L12-v2",
    "paraphrase-multilingual-mpnet-base-v2",
}
# dimension and limit, as the cards state them; MTEB's lists have mistakes (384 is not 512)
STATED = {
    "bge-small-en-v1.5": (384, 512),
    "bge-small-zh-v1.5": (512, 512),
    "bge-m3": (1024, 8192),
    "multilingual-e5-large": (1024, 512),
    "all-MiniLM-L12-v2": (384, 128),
    "all-mpnet-base-v2": (768, 384),
    "LaBSE": (768, 256),
    "snowflake-arctic-embed-l-v2.0": (1024, 8192),
    "mxbai-embed-large-v1": (1024, 512),
    "nomic-embed-text-v1.5": (768, 8192),
    "gte-modernbert-base": (768, 8192),
    "Qwen3-Embedding-4B": (2560, 32768),
    "embeddinggemma-300m": (768, 2048),
    "SFR-Embedding-2_R": (4096, 4096),
    "ms-marco-MiniLM-L6-v2": (1, 512),
    "bge-reranker-large": (1, 512),
    "bge-reranker-v2-m3": (1, 8192),
    "gte-reranker-modernbert-base": (1, 8192),
}
every_model = pytest.mark.parametrize("spec", SPECS, ids=list(CATALOG))


@every_model
def test_an_entry_is_pinned_and_whole(spec):
    assert CATALOG[spec.name] is spec
    assert re.fullmatch("[0-9a-f]{40}", spec.revision)
    assert re.fullmatch(r"[\w-]+/[\w.-]+", spec.repo)
    assert spec.languages
    assert all(re.fullmatch("[a-z]{2}", language) for language in spec.languages)
    assert len(set(spec.languages)) == len(spec.languages)
    assert (spec.licence == "unknown") == (spec.name == "multi-qa-mpnet-base-dot-v1")
    assert spec.normalize == (spec.name not in UNNORMALISED and spec.kind is Kind.EMBEDDER)
    assert spec.parameters
    assert not spec.notices
    assert not spec.name.endswith(("-query", "-document"))
    assert spec.name not in list(Size)


def test_each_commit_is_pinned_once():
    revisions = [spec.revision for spec in SPECS]
    assert len(set(revisions)) == len(revisions) == len({spec.repo for spec in SPECS})


@pytest.mark.parametrize("name", STATED)
def test_dimension_and_limit_are_the_cards(name):
    assert (CATALOG[name].dimension, CATALOG[name].max_tokens) == STATED[name]


@every_model
def test_instruct_models_have_a_template_and_a_default(spec):
    assert (spec.prompts.default_instruction is not None) == spec.takes_instruction
    if spec.takes_instruction:
        assert spec.prompts.query_instruction.count(INSTRUCTION) == 1
        assert spec.prompts.query == ""
        assert not spec.prompts.document or spec.question


@every_model
def test_rerankers_give_one_score_and_only_questions_have_prompts(spec):
    is_reranker = "rerank" in spec.name.lower() or "ms-marco" in spec.name
    assert (spec.kind is Kind.RERANKER) == is_reranker == (spec.dimension == 1)
    assert (spec.pooling is None) == is_reranker
    assert not is_reranker or spec.prompts.are_empty == (spec.question is None)


@every_model
def test_decoders_pool_the_last_token(spec):
    pools_last = spec.pooling is Pooling.LAST_TOKEN or spec.question is not None
    assert pools_last == (spec.backbone in DECODERS)


def test_the_end_token_that_transformers_5_drops_is_stated():
    stated = {spec.name: spec.special_tokens for spec in SPECS if spec.special_tokens}
    both = SpecialTokens((1,), (2,))
    assert stated == {"e5-mistral-7b-instruct": both, "linq-embed-mistral": both}


@every_model
def test_the_size_follows_from_the_parameters(spec):
    limits = {Size.SMALL: (0, 150), Size.MEDIUM: (150, 1_000), Size.LARGE: (1_000, 10_000)}
    least, most = limits[spec.size]
    assert least < spec.parameters <= most


@pytest.mark.parametrize("spec", [s for s in SPECS if s.published_example], ids=lambda s: s.name)
def test_published_scores_have_their_inputs(spec):
    example = spec.published_example
    assert len(example.scores) == len(example.queries)
    assert all(len(row) == len(example.documents) for row in example.scores)
    assert all(abs(score) <= example.scale for row in example.scores for score in row)
    assert (example.instruction is not None) == spec.takes_instruction
    assert spec.repo in example.source or spec.package


@every_model
def test_an_entry_is_found_by_name_and_by_hub_id_in_any_letter_case(spec):
    for known in (spec.name, spec.repo):
        assert by_name_or_repo(known) is spec
        assert by_name_or_repo(known.upper()) is spec
        assert by_name_or_repo(known.lower()) is spec


@pytest.mark.parametrize("name", ["", "e5", "intfloat", "intfloat/e5", "e5-small/intfloat"])
def test_what_is_not_in_it(name):
    assert by_name_or_repo(name) is None


@pytest.mark.parametrize(
    ("name", "path"),
    [("intfloat/E5-Small", None), ("mine", "INTFLOAT/e5-small"), ("E5-SMALL", "/models/e5")],
)
def test_a_configured_model_keeps_its_name_and_gets_the_cards_prompts(name, path):
    spec = catalog_model(name, path)
    assert spec.name == name
    assert (spec.prompts.query, spec.prompts.document) == ("query: ", "passage: ")
    assert spec.revision == CATALOG["e5-small"].revision


def test_dimensions_are_smallest_first():
    assert SPECS[0].dimensions == (384,)
    assert all(spec.dimensions[-1] == spec.dimension for spec in SPECS)
    assert all(list(spec.dimensions) == sorted(spec.dimensions) for spec in SPECS)


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("Qwen3-Embedding-0.6B", (32, 33, 1023, 1024), (31, 1025)),
        ("embeddinggemma-300m", (128, 256, 512, 768), (127, 129, 384)),
        ("all-MiniLM-L6-v2", (384,), (1, 383, 385)),
    ],
)
def test_the_dimensions_that_a_card_allows(name, allowed, refused):
    assert all(CATALOG[name].allows_dimensions(n) for n in allowed)
    assert not any(CATALOG[name].allows_dimensions(n) for n in refused)


@pytest.mark.parametrize("source", REFUSED)
def test_a_model_that_would_give_other_vectors_is_refused_with_the_reason(source):
    assert refusal(source.upper())
    assert by_name_or_repo(source) is None
    assert refusal("intfloat/e5-small") is None


def test_an_unknown_name_is_answered_with_what_is_like_it():
    assert "e5-small" in did_you_mean("E5-smal")
    assert did_you_mean("zzz") == ""

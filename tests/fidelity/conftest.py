"""Tiny models of every family, the texts they are tried on, and the real MiniLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deployments.core.models.catalog import CATALOG
from deployments.core.models.spec import ModelSpec
from testing.docstrings import docstrings
from testing.models.files import LAST_TOKEN, Recipe
from testing.models.tiny import Shape, save_bert, save_mistral, save_xlm_roberta

DIMENSION = Shape().hidden
MAX_TOKENS = Recipe().max_seq_length
ODD_TEXTS = (
    "a",
    "",
    "first line\nsecond line\n\n\tindented",
    "How much protein should a female eat?",
    "南瓜的家常做法: 1.清炒南瓜丝",
    "ÉCOLE ﬁne  Straße ♥ \U0001f600",
    "a literal </s> and <s> and <pad> and [PAD] and [SEP]",
    " leading and trailing ",
)


@dataclass(frozen=True)
class Tiny:
    """A catalog entry made to fit the tiny files in ``folder``; all else is the catalog's."""

    spec: ModelSpec
    folder: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Tiny]:
    """Catalog models by name, in tiny."""
    root = tmp_path_factory.mktemp("tiny")
    unnormalised = replace(LAST_TOKEN, normalize=False)  # as Linq's own modules.json
    folders = {
        "e5-small": save_bert(root / "e5-small", shape=Shape(seed=2)),
        "e5-small-v2": save_bert(root / "e5-small-v2"),
        "multilingual-e5-large-instruct": save_xlm_roberta(root / "multilingual-e5"),
        "e5-mistral-7b-instruct": save_mistral(root / "e5-mistral"),
        "linq-embed-mistral": save_mistral(root / "linq", unnormalised, Shape(seed=1)),
    }
    return {
        name: Tiny(replace(CATALOG[name], dimension=DIMENSION, max_tokens=MAX_TOKENS), folder)
        for name, folder in folders.items()
    }


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts from nothing to several times the tiny models' limit."""
    return [*ODD_TEXTS, *docstrings(24, longest_words=300)]

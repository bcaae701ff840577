"""What a replica finds when it compares a reranker with CrossEncoder as it loads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deployments.core.checking.comparison import (
    expectations,
    token_difference,
    vector_difference,
)
from deployments.core.checking.pair_reference import PairReference
from deployments.core.checking.verdict import Engines, checked_engine
from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.interface import Network
from deployments.core.errors import UnsupportedModel
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model
from testing.models.rerankers import save_reranker


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EMBEDFLEET_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return find_model("own", str(save_reranker(tmp_path_factory.mktemp("reranker"))))


@pytest.fixture(scope="module")
def expected(files):
    return expectations(PairReference(files, torch.device("cpu"), torch.float32), files.spec)


@pytest.fixture(scope="module")
def description(files):
    return describe(files.spec, files.folder)


def with_pair_tokens(description, **changes):
    pair_tokens = replace(description.spec.pair_tokens, **changes)
    return replace(description, spec=replace(description.spec, pair_tokens=pair_tokens))


def test_a_right_reranker_takes_the_fast_path(files, description):
    engine, verdict = checked_engine(Engines(description, files, "cpu", "float32"))
    assert (engine.network, verdict.network) == (Network.FAST, Network.FAST)
    assert verdict.compared_with.startswith("sentence-transformers")


@pytest.mark.parametrize("changes", [{"between": ()}, {"last": ()}, {"between": (3, 3)}])
def test_other_special_tokens_are_found(description, expected, changes):
    assert token_difference(description, expected) is None
    assert token_difference(with_pair_tokens(description, **changes), expected)


@pytest.mark.parametrize("max_tokens", [63, 65])
def test_another_limit_is_found(description, expected, max_tokens):
    spec = replace(description.spec, max_tokens=max_tokens)
    assert token_difference(replace(description, spec=spec), expected)


def test_token_types_that_are_left_out_are_found(files, description, expected):
    right = TorchEngine(description.spec, files.folder, "cpu", "float32")
    assert vector_difference(description, right, "float32", expected) is None
    without = with_pair_tokens(description, second_type=0)
    wrong = TorchEngine(without.spec, files.folder, "cpu", "float32")
    assert vector_difference(without, wrong, "float32", expected)


def test_a_reranker_described_wrongly_is_refused(files, description):
    wrong = with_pair_tokens(description, between=())
    with pytest.raises(UnsupportedModel, match="token ids"):
        checked_engine(Engines(wrong, files, "cpu", "float32"))

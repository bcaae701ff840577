"""Vectors of a model that was trained to be cut (Matryoshka), against sentence-transformers' own cut."""

from __future__ import annotations

import pytest
from sentence_transformers import SentenceTransformer

from deployments.client.preprocessing import load_preprocessor
from deployments.config.schema import ModelConfig
from deployments.core.errors import UnsupportedModel
from deployments.core.models.local_format import read_spec
from deployments.core.request import check_dimensions
from deployments.core.vectors import finished
from testing.models.files import edit_json
from testing.models.tiny import save_bert
from tests.fidelity.pipeline import encode
from tests.support.tolerance import FLOAT32, worst_cosine


@pytest.fixture
def folder(tmp_path):
    return save_bert(tmp_path / "own")


def configured(folder, *dimensions):
    return ModelConfig(name="own", path=str(folder), dimensions=dimensions)


@pytest.mark.parametrize("dimensions", [8, 16])
def test_the_vectors_are_those_of_sentence_transformers(folder, texts, dimensions):
    spec = load_preprocessor(configured(folder, 16, 8)).spec
    cut = check_dimensions(spec, dimensions)
    reference = SentenceTransformer(str(folder), device="cpu", truncate_dim=dimensions)
    expected = reference.encode(texts, normalize_embeddings=True)
    assert expected.shape[1] == dimensions
    actual = finished(encode(spec, folder, texts), cut, normalize=True)
    assert worst_cosine(actual, expected) >= FLOAT32


def test_the_models_own_file_may_state_them(folder):
    dimension = read_spec("own", folder).dimension
    edit_json(folder / "config.json", matryoshka_dimensions=[dimension, 16, 8, 8, "9", 0])
    assert read_spec("own", folder).dimensions == (8, 16, dimension)
    spec = load_preprocessor(configured(folder, 8, 12)).spec
    assert spec.dimensions == (8, 12, 16, dimension)


def test_what_is_no_cut_is_refused_by_name(folder):
    with pytest.raises(UnsupportedModel, match=r"dimensions: own has \d+, .* cut to \[4096\]"):
        load_preprocessor(configured(folder, 8, 4096))

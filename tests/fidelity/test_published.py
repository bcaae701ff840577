"""The scores that model cards publish, computed with the models' own weights where these are here."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.core.errors import ModelUnavailable
from deployments.core.models import weights
from deployments.core.models.catalog import CATALOG
from deployments.core.models.loading import ModelFiles, find_model
from deployments.core.models.spec import Role
from deployments.core.vectors import normalized
from tests.fidelity.pipeline import encode

PUBLISHED = [spec for spec in CATALOG.values() if spec.published_example]
# of a cosine: cards print at least four digits of scores in float32 or float16
TOLERANCE = 0.002


@pytest.fixture
def at_hand(monkeypatch):
    """Finds a model's files on this machine; skips the test by the model's name if they are not here."""

    def not_here(repo, *_):
        raise ModelUnavailable(f"the weights of {repo} are not on this machine")

    def find(name: str) -> ModelFiles:
        monkeypatch.setattr(weights, "_download", not_here)
        try:
            return find_model(name)
        except ModelUnavailable as missing:
            pytest.skip(missing.message)

    return find


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_our_scores_are_the_cards(at_hand, spec):
    files, example = at_hand(spec.name), spec.published_example

    def vectors(texts, role, instruction=None):
        actual = encode(files.spec, files.folder, list(texts), role, instruction)
        return normalized(actual)

    queries = vectors(example.queries, Role.QUERY, example.instruction)
    scores = queries @ vectors(example.documents, Role.DOCUMENT).T
    assert scores == pytest.approx(np.array(example.scores) / example.scale, abs=TOLERANCE)


def test_the_bundled_model_is_not_skipped(at_hand):
    assert at_hand("all-MiniLM-L6-v2").folder.is_dir()

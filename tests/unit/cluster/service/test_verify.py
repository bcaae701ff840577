"""Which differences from published scores `embedfleet verify` lets pass."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.service.http import ServiceError
from cluster.service.verify import verify
from deployments.core.models.catalog import CATALOG
from deployments.core.models.spec import Role

MINILM = CATALOG["all-MiniLM-L6-v2"]
EXAMPLE = MINILM.published_example


class Off:
    """Stands for a service whose cosines are off by as much."""

    def __init__(self, by, **model):
        self._by = by
        self._model = {"id": MINILM.name, "state": "ready", "hugging_face_id": MINILM.repo}
        self._model |= {"size": "small", **model}

    def models(self):
        return [self._model]

    def encode(self, model, texts, role, instruction=None):
        # queries and documents are the same texts, so the scores are a matrix of products
        vectors = np.linalg.cholesky(np.array(EXAMPLE.scores))
        share = 1.0 if role is Role.DOCUMENT else 1.0 - self._by
        beside = np.full((len(texts), 1), np.sqrt(1.0 - share**2))  # where no document is
        return np.hstack([share * vectors, beside])


@pytest.mark.parametrize(
    ("dtype", "device", "tolerance"),
    [
        ("float32", "cpu", 0.001),
        ("float16", "cpu", 0.001),  # of weights alone
        ("float16", "cuda", 0.01),
        ("bfloat16", "cpu", 0.01),
    ],
)
def test_how_far_off_a_precision_may_be(dtype, device, tolerance, capsys):
    assert verify(Off(0.9 * tolerance, dtype=dtype, device=device), None) == 0
    assert f"tolerance {tolerance}" in capsys.readouterr().out
    assert verify(Off(1.1 * tolerance, dtype=dtype, device=device), None) == 1
    assert "BEYOND TOLERANCE" in capsys.readouterr().out


def test_a_size_is_the_first_model_of_it(capsys):
    assert verify(Off(0.0, dtype="float32", device="cpu"), "small") == 0
    assert "ok: worst difference" in capsys.readouterr().out
    with pytest.raises(ServiceError, match="no model 'large' here"):
        verify(Off(0.0), "large")


@pytest.mark.parametrize("name", ["ours", MINILM.repo])
def test_a_catalog_model_under_another_name_has_its_cards_scores(name, capsys):
    assert verify(Off(0.0, id=name, dtype="float32", device="cpu"), name) == 0
    said = capsys.readouterr().out
    assert f"{name} (float32), after {EXAMPLE.source}" in said
    assert "ok: worst difference 0.0000" in said

"""What happens to pooled vectors last."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deployments.core.models.spec import Activation
from deployments.core.vectors import finished, normalized, scores

POOLED = np.array([[3, 4, 12], [0, 0, 0], [0, -5, 0], [1e-3, 0, 0]], np.float32)


def test_rows_get_length_one_and_zero_stays_zero():
    actual = normalized(POOLED)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), [1, 0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(actual[0], [3 / 13, 4 / 13, 12 / 13], atol=1e-7)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_prefix_is_normalised_after_the_cut(dimensions):
    actual = finished(POOLED, dimensions, normalize=True)
    cut = POOLED[0, :dimensions]
    np.testing.assert_allclose(actual[0], cut / np.linalg.norm(cut), atol=1e-7)
    assert actual.flags.c_contiguous


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_unnormalised_vectors_are_left_as_they_are(dimensions):
    actual = finished(POOLED, dimensions, normalize=False)
    np.testing.assert_array_equal(actual, POOLED[:, :dimensions])
    assert actual.flags.c_contiguous


LOGITS = np.array([[-200], [-3], [0], [0.5], [200]], np.float32)


def test_published_scores_are_what_torch_makes_of_logits():
    expected = torch.sigmoid(torch.from_numpy(LOGITS)).numpy()
    with np.errstate(all="raise", under="ignore"):
        actual = scores(LOGITS, Activation.SIGMOID, raw=False)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(scores(LOGITS, Activation.IDENTITY, raw=False), LOGITS)
    np.testing.assert_array_equal(scores(LOGITS, Activation.SIGMOID, raw=True), LOGITS)


def test_a_text_in_parts_has_the_score_of_its_best():
    actual = scores(LOGITS, Activation.IDENTITY, raw=False, owners=(0, 0, 1, 1, 2))
    assert actual.tolist() == [[-3], [0.5], [200]]

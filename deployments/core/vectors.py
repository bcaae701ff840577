"""What happens last: vectors are cut to the dimensions asked for and normalised, logits become scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deployments.core.batch import Vectors
from deployments.core.models.spec import Activation

# of vectors, to be normalised or multiplied at once: it takes about 2 ms, and a hop to a thread 0.1 to
# 0.2 ms
INLINE_NUMBERS = 200_000


def normalized(vectors: Vectors) -> Vectors:
    """Returns L2-normalised float32 rows; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Vectors = vectors / np.maximum(norms, np.float32(1e-12))
    return result


def finished(vectors: Vectors, dimensions: int, normalize: bool) -> Vectors:
    """Returns the first ``dimensions`` of each pooled vector, normalised where asked for.

    A Matryoshka prefix is normalised after the cut (arXiv 2205.13147).
    """
    cut = np.ascontiguousarray(vectors[:, :dimensions])
    return normalized(cut) if normalize else cut


def scores(
    logits: Vectors, activation: Activation, raw: bool, owners: Sequence[int] | None = None
) -> Vectors:
    """Returns a reranker's published scores of its logits, both ``(texts, 1)``, or the ``raw`` logits.

    With ``owners``, a row is a part of the text with that number, and a text gets its best part's score.
    """
    if owners is not None:
        best = np.full((owners[-1] + 1, 1), -np.inf, np.float32)
        np.maximum.at(best, np.asarray(owners), logits)
        logits = best
    if raw or activation is Activation.IDENTITY:
        return logits
    # as torch computes it, and without overflow
    exponential = np.exp(-np.abs(logits))
    probabilities: Vectors = np.where(logits < 0, exponential, np.float32(1)) / (1 + exponential)
    return probabilities

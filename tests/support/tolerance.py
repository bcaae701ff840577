"""How close vectors must be, in one place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FLOAT32 = 0.99999  # least cosine to the reference
BFLOAT16 = 0.9995
# of float16 on a CPU, where only weights are rounded
WORST = {"float32": FLOAT32, "bfloat16": BFLOAT16, "float16": FLOAT32}
WRONG = 0.99  # a wrong recipe is at most this near, twenty times as far as BFLOAT16
SCORE = 1e-3  # of scores printed on a model card, in float32


def cosines(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Returns the cosine of each row of ``a`` and the same row of ``b``, in float64."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    values: npt.NDArray[np.float64] = (x * y).sum(axis=1) / norms
    return values


def worst_cosine(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Returns the least cosine of rows that should be the same."""
    return float(cosines(a, b).min())

"""A day of synthetic traffic for a large fleet: a diurnal curve, bursts, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DAY_S = 86_400
Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """Online traffic, second by second: tokens/s, and the tokens of a request on average."""

    tokens_per_s: Curve
    tokens_per_request: Curve


def a_day(peak: float, trough: float, bursts: int = 24, seed: int = 0) -> Traffic:
    """Returns a day: lowest at 4 h, highest at 16 h; queries by day, long documents by night.

    Bursts come at random, last 1 to 10 minutes and add a quarter to once the load of the time, at
    once. Noise is 3% a second.
    """
    dice = np.random.default_rng(seed)
    time = np.arange(DAY_S)
    daily = 0.5 - 0.5 * np.cos(2 * np.pi * (time - 4 * 3_600) / DAY_S)
    load = trough + (peak - trough) * daily
    for start in dice.integers(0, DAY_S, bursts):
        load[start : start + dice.integers(60, 600)] *= 1 + dice.uniform(0.25, 1.0)
    noise = np.clip(dice.normal(1, 0.03, DAY_S), 0.8, 1.2)
    return Traffic(load * noise, np.geomspace(3_000, 300, 1_001)[(daily * 1_000).astype(int)])

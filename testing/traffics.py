"""Seeded courses of traffic for the simulation of autoscaling: days of several kinds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deployments.core.planning.simulation import Curve, Traffic

DAY_S = 86_400
PEAK, TROUGH = 7e6, 1.5e6  # tokens/s of `a_day`
_REQUEST_TOKENS = 300
_REPLICA = 20_000.0  # tokens/s that one replica encodes, in the traffics of a few replicas


def a_day(peak: float = PEAK, trough: float = TROUGH, bursts: int = 24, seed: int = 0) -> Traffic:
    """Returns a day: least traffic at 4 h, most at 16 h; queries by day, long documents by night.

    Bursts come at random, last 1 to 10 minutes and multiply the load by 1.25 to 2 at once. The noise is
    3% a second.
    """
    return Day(peak, trough, bursts, seed).traffic


class Day:
    """The parts of `a_day`: the ``calm`` curve without bursts and noise, the ``load`` without noise, the
    first and last second of each burst, and the ``traffic``.
    """

    def __init__(self, peak: float, trough: float, bursts: int, seed: int) -> None:
        dice = np.random.default_rng(seed)
        daily = _daily(4)
        self.calm = trough + (peak - trough) * daily
        self.load = self.calm.copy()
        self.bursts: list[tuple[int, int]] = []
        for start in dice.integers(0, DAY_S, bursts).tolist():
            stop = start + int(dice.integers(60, 600))
            self.load[start:stop] *= 1 + dice.uniform(0.25, 1.0)
            self.bursts.append((start, min(stop, DAY_S)))
        noise = np.clip(dice.normal(1, 0.03, DAY_S), 0.8, 1.2)
        sizes = np.geomspace(3_000, 300, 1_001)[(daily * 1_000).astype(int)]
        self.traffic = Traffic(self.load * noise, sizes)


def noisy(seed: int) -> Traffic:
    """Returns a day whose noise is 15%, and lasts for 20 s where it is."""
    dice = np.random.default_rng(seed)
    kept = np.exp(-1 / 20)
    steps, noise = dice.normal(0, 0.15 * np.sqrt(1 - kept**2), DAY_S), np.zeros(DAY_S)
    for second in range(1, DAY_S):
        noise[second] = kept * noise[second - 1] + steps[second]
    return _queries((TROUGH + (PEAK - TROUGH) * _daily(4)) * np.clip(1 + noise, 0.3, 2))


def another_phase(seed: int) -> Traffic:
    """Returns a day with a narrow peak at 10 h, a night near nothing, and eight bursts."""
    bursts = a_day(1.0, 1.0, 8, seed).tokens_per_s
    return _queries((3e5 + 4e6 * _daily(22) ** 2) * bursts)


def step(seed: int) -> Traffic:
    """Returns a day on which the load doubles at 8 h, and is halved at 20 h."""
    load = np.full(DAY_S, 2e6)
    load[8 * 3_600 : 20 * 3_600] *= 2
    return _queries(load * a_day(1.0, 1.0, 0, seed).tokens_per_s)


def flash_crowd(seed: int) -> Traffic:
    """Returns a calm day on which the load grows fivefold in two minutes and falls again in an hour."""
    hours = np.maximum(0, np.arange(DAY_S) - 12 * 3_600) / 3_600
    crowd = np.minimum(hours * 30, 1) * np.exp(-2 * hours)
    return _queries(2e6 * (1 + 4 * crowd) * a_day(1.0, 1.0, 0, seed).tokens_per_s)


def weekend(seed: int) -> Traffic:
    """Returns a Friday, and a Saturday with a third of its traffic and half of its bursts."""
    friday, saturday = a_day(seed=seed), a_day(PEAK / 3, TROUGH / 3, 12, seed + 1)
    both = [(day.tokens_per_s, day.tokens_per_request) for day in (friday, saturday)]
    return Traffic(*(np.concatenate(curves) for curves in zip(*both, strict=True)))


def quiet_night(seed: int) -> Traffic:
    """Returns single requests at random, for at most four replicas, and hardly any from 20 to 6 h."""
    dice = np.random.default_rng(seed)
    rate = 0.02 + 180 * np.maximum(0, np.sin(2 * np.pi * (np.arange(DAY_S) - 6 * 3_600) / DAY_S))
    return _queries(dice.poisson(rate).astype(np.float64) * _REQUEST_TOKENS)


def in_bursts(every_s: int, tokens: float, steady: float = 0.0) -> Traffic:
    """Returns a day of ``tokens`` at once every ``every_s`` seconds, and ``steady`` tokens/s."""
    load = np.zeros(DAY_S)
    load[::every_s] = tokens
    return _queries(steady + _reported(load))


def large_calls(seed: int) -> Traffic:
    """Returns a day of calls at random: each 20 s of a replica's work, for three replicas on average."""
    calls = np.random.default_rng(seed).poisson(3 / 20, DAY_S).astype(np.float64)
    return _queries(_reported(calls * 20 * _REPLICA))


def _reported(tokens: Curve) -> Curve:
    """Returns the tokens as replicas report them, averaged over two seconds."""
    means: Curve = (tokens + np.append(0.0, tokens[:-1])) / 2
    return means


def _daily(least_h: int) -> Curve:
    """Returns a day's wave from 0 (at ``least_h``) to 1."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(DAY_S) - least_h * 3_600) / DAY_S)


def _queries(tokens_per_s: Curve) -> Traffic:
    return Traffic(tokens_per_s, np.full(len(tokens_per_s), float(_REQUEST_TOKENS)))


# the policy's constants were chosen with seeds 0 to 3 of the day, and seed 1 of noisy and flash crowd;
# its treatment of short bursts was changed with these days in view, with seed 7
HELD_OUT: dict[str, Callable[[int], Traffic]] = {
    "day": lambda seed: a_day(seed=seed),
    "noisy": noisy,
    "bursty": lambda seed: a_day(bursts=96, seed=seed),
    "another phase": another_phase,
    "step": step,
    "flash crowd": flash_crowd,
    "weekend": weekend,
    "quiet night": quiet_night,
    "burst each 5 s": lambda seed: in_bursts(5, 15 * _REPLICA),
    "burst each 10 s": lambda seed: in_bursts(10, 20 * _REPLICA, 0.5 * _REPLICA),
    "burst each 30 s": lambda seed: in_bursts(30, 30 * _REPLICA, 0.2 * _REPLICA),
    "large calls": large_calls,
}

"""How fast one replica is: the user's figure, a report of ``embedfleet bench``, or what we measured."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.plan.errors import PlanError
from deployments.core.models.catalog import by_name_or_repo
from deployments.core.planning.measured import CARDS

_OTHERWISE = (
    "pass --tokens-per-second, or --bench with what `embedfleet bench MODEL --json` prints there"
)


@dataclass(frozen=True)
class ReplicaSpeed:
    """The tokens/s of one replica, where the figure comes from, and a full pass in seconds, if known."""

    tokens_per_s: float
    source: str
    pass_s: float | None = None


def replica_speed(args: argparse.Namespace, tokens_per_text: float | None) -> ReplicaSpeed:
    """Returns the speed that the options name, for texts of about this length. Raises PlanError."""
    if args.tokens_per_second is not None:
        return ReplicaSpeed(args.tokens_per_second, "--tokens-per-second")
    if args.bench is not None:
        return speed_of_report(Path(args.bench), tokens_per_text)
    return speed_of_card(args.card, args.model)


def speed_of_card(card: str, model: str) -> ReplicaSpeed:
    """Returns what this project measured. Raises PlanError if it has not measured this."""
    known = CARDS.get(card.lower())
    if known is None:
        raise PlanError(
            f"--card {card}: not measured by this project, which knows {', '.join(CARDS)}; {_OTHERWISE}"
        )
    spec = by_name_or_repo(model)
    name = spec.name if spec else model
    rate = known.tokens_per_s.get(name.lower())
    if rate is None:
        raise PlanError(
            f"--card {card}: {name} has not been measured there (only {', '.join(known.tokens_per_s)}); "
            f"{_OTHERWISE}"
        )
    return ReplicaSpeed(rate, f"measured on {known.description}")


def speed_of_report(file: Path, tokens_per_text: float | None) -> ReplicaSpeed:
    """Returns the speed in a report of `embedfleet bench --json`, for texts of about this length.

    The seconds of a text are interpolated between the lengths in the report, so the mean length of a
    corpus is enough. Beyond them, the nearest length counts; without a length, the slowest. Raises
    PlanError, which names the field.
    """
    report = _report(file)
    speeds = sorted(_speed(file, n, one) for n, one in enumerate(_list(file, report)))
    if tokens_per_text is None:
        length, rate = min(speeds, key=lambda speed: speed[1])
    else:
        length, rate = _interpolated(speeds, tokens_per_text)
    budget = report.get("token_budget")
    pass_s = budget / rate if isinstance(budget, int) and budget > 0 else None
    return ReplicaSpeed(rate, f"{file}, texts of {length:.0f} tokens", pass_s)


def _interpolated(speeds: list[tuple[float, float]], tokens: float) -> tuple[float, float]:
    """Returns the nearest length within ascending pairs of length and tokens/s, and its tokens/s."""
    lengths = [length for length, _ in speeds]
    within = min(max(tokens, lengths[0]), lengths[-1])
    seconds = np.interp(within, lengths, [length / rate for length, rate in speeds])
    return within, within / float(seconds)


def _report(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(
            f"--bench: {file} cannot be read as JSON: {error}; save what `embedfleet bench --json` prints"
        ) from error
    if not isinstance(report, dict):
        raise PlanError(f"--bench: {file} must be a JSON object with `speeds`")
    return report


def _list(file: Path, report: dict[str, Any]) -> list[Any]:
    speeds = report.get("speeds")
    if not isinstance(speeds, list) or not speeds:
        raise PlanError(
            f"--bench: {file}: `speeds` must be a list that is not empty, as of `embedfleet bench --json`"
        )
    return speeds


def _speed(file: Path, number: int, entry: Any) -> tuple[float, float]:
    """Returns the tokens of a text, and the tokens/s."""
    values = []
    for name in ("tokens_a_text", "tokens_per_s"):
        value = entry.get(name) if isinstance(entry, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise PlanError(f"--bench: {file}: `speeds[{number}].{name}` must be a number above 0")
        values.append(float(value))
    return values[0], values[1]

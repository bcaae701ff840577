"""Reads recorded traffic: CSV of time and tokens, or what Prometheus answers to a range query."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from cluster.plan.errors import PlanError
from deployments.core.planning.simulation import Traffic

MOST_S = 14 * 86_400
_EVEN = 0.01  # rows whose distances differ by less, relatively, are taken at a fixed interval
_LEAST_INTERVAL_S = 2.0  # rows that are closer are requests
_QUERY_RANGE = "an answer of Prometheus' /api/v1/query_range"

Row = tuple[float, float]  # a time in seconds, and tokens


@dataclass(frozen=True)
class Trace:
    """Traffic, and how its file was read, in a few words."""

    traffic: Traffic
    reading: str


def read_trace(file: Path, tokens_per_request: float | None) -> Trace:
    """Returns the trace of a CSV or JSON file.

    If the rows are not requests, ``tokens_per_request`` says how large these are; if it is None, the
    traffic has NaN there. Raises PlanError, which names the row and the field.
    """
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"--trace: {file} cannot be read: {error}") from error
    if content.lstrip().startswith("{"):
        return _prometheus(file, content, tokens_per_request)
    return _csv(file, content, tokens_per_request)


def _csv(file: Path, content: str, tokens_per_request: float | None) -> Trace:
    reader = csv.DictReader(content.splitlines())
    if missing := {"time", "tokens"} - set(reader.fieldnames or ()):
        raise PlanError(
            f"--trace: {file} has no column `{min(missing)}`: a trace is CSV with a header and the "
            f"columns `time` and `tokens`, or {_QUERY_RANGE}"
        )
    # its own counter, since a blank line is no row
    rows = [
        (_time(row["time"], f"{file}, row {n}"), _tokens(row["tokens"], f"{file}, row {n}"))
        for n, row in enumerate(reader, 1)
    ]
    _check_order(file, [at for at, _ in rows])
    if (interval := _interval([at for at, _ in rows])) is None:
        return Trace(_of_requests(file, rows), "each row is a request")
    rates = [(at, tokens / interval) for at, tokens in rows]
    return Trace(
        _of_rates(file, rates, interval, tokens_per_request),
        f"each row is what arrived in the {interval:g} s that follow",
    )


def _time(text: str | None, where: str) -> float:
    """Returns seconds, from a number or from ISO 8601."""
    try:
        seconds = float(text or "")
    except ValueError:
        try:
            seconds = datetime.fromisoformat(text or "").timestamp()
        except ValueError:
            seconds = math.nan
    if not math.isfinite(seconds):
        raise PlanError(
            f"--trace: {where}: `time` must be seconds or ISO 8601 (2026-11-30T09:00:00), not {text!r}"
        )
    return seconds


def _tokens(text: str | None, where: str) -> float:
    try:
        tokens = float(text or "")
    except ValueError:
        tokens = math.nan
    if not math.isfinite(tokens) or tokens < 0:
        raise PlanError(f"--trace: {where}: `tokens` must be a number from 0, not {text!r}")
    return tokens


def _check_order(file: Path, times: Sequence[float]) -> None:
    if len(times) < 2:
        raise PlanError(f"--trace: {file} has {len(times)} rows; at least two are needed")
    steps = np.diff(times)
    if (steps < 0).any():
        row = int(np.argmax(steps < 0)) + 2
        raise PlanError(
            f"--trace: {file}, row {row}: `time` is before the row above it; sort the file"
        )
    if times[-1] - times[0] > MOST_S:
        days = (times[-1] - times[0]) / 86_400
        raise PlanError(
            f"--trace: {file} covers {days:,.0f} days, and the most are {MOST_S // 86_400}: cut it, or "
            "give `time` in seconds"
        )


def _interval(times: Sequence[float]) -> float | None:
    """Returns the interval of rows at a fixed one; None for rows that come at any time."""
    steps = np.diff(times)
    least = float(steps.min())
    whole = (
        np.abs(steps / least - np.round(steps / least)) < _EVEN if least > 0 else np.array(False)
    )
    return least if least >= _LEAST_INTERVAL_S and whole.all() else None


def _of_requests(file: Path, rows: Sequence[Row]) -> Traffic:
    start = math.floor(rows[0][0])
    seconds = [math.floor(at) - start for at, _ in rows]
    tokens = np.bincount(seconds, [tokens for _, tokens in rows]).astype(np.float64)
    counts = np.bincount(seconds)
    if not tokens.sum():
        raise PlanError(f"--trace: {file}: `tokens` is 0 in every row")
    mean = float(tokens.sum() / counts.sum())
    # a second without a request has none to count, but the fleet may still work on earlier ones
    per_request = np.where(tokens > 0, tokens / np.maximum(counts, 1), mean)
    return Traffic(tokens, per_request)


def _of_rates(
    file: Path, rates: Sequence[Row], interval: float, tokens_per_request: float | None
) -> Traffic:
    """Returns traffic with each rate for ``interval`` seconds. Times without a rate have no traffic."""
    start = rates[0][0]
    curve = np.zeros(math.ceil(rates[-1][0] - start + interval))
    for at, rate in rates:
        curve[round(at - start) : round(at - start + interval)] = rate
    if not curve.any():
        raise PlanError(f"--trace: {file} has no traffic: every value is 0")
    return Traffic(curve, np.full(len(curve), tokens_per_request or math.nan))


def _prometheus(file: Path, content: str, tokens_per_request: float | None) -> Trace:
    rates: dict[float, float] = {}
    series = _series(file, content)
    for number, one in enumerate(series):
        for at, rate in _samples(file, number, one):
            rates[at] = rates.get(at, 0.0) + rate
    times = sorted(rates)
    _check_order(file, times)
    interval = float(np.diff(times).min())
    traffic = _of_rates(file, [(at, rates[at]) for at in times], interval, tokens_per_request)
    count = f"{len(series)} series" if len(series) > 1 else "one series"
    return Trace(traffic, f"{count} of tokens/s, every {interval:g} s")


def _series(file: Path, content: str) -> list[Any]:
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise PlanError(f"--trace: {file} is not valid JSON: {error}") from error
    data = answer.get("data")
    if answer.get("status") != "success" or not isinstance(data, dict):
        raise PlanError(
            f'--trace: {file}: `status` must be "success", with `data`: save {_QUERY_RANGE}'
        )
    if (kind := data.get("resultType")) != "matrix":
        raise PlanError(
            f"--trace: {file}: `data.resultType` must be matrix, not {kind}: save {_QUERY_RANGE}"
        )
    result = data.get("result")
    if not isinstance(result, list) or not result:
        raise PlanError(f"--trace: {file}: `data.result` is empty: the query matched no series")
    return result


def _samples(file: Path, number: int, series: Any) -> Iterable[Row]:
    place = f"data.result[{number}].values"
    values = series.get("values") if isinstance(series, dict) else None
    if not isinstance(values, list):
        raise PlanError(f"--trace: {file}: `{place}` is missing")
    for n, sample in enumerate(values):
        try:
            at, rate = float(sample[0]), float(sample[1])
        except (TypeError, ValueError, IndexError, KeyError):
            at = rate = math.nan
        if not (math.isfinite(at) and math.isfinite(rate) and rate >= 0):
            raise PlanError(
                f"--trace: {file}: `{place}[{n}]` must be a time and tokens/s from 0, not "
                f"{json.dumps(sample)}"
            )
        yield at, rate

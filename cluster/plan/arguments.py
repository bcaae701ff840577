"""The arguments of ``embedfleet plan``. Imports nothing slow, because every command loads this file."""

from __future__ import annotations

import argparse
import math

from cluster.arguments import positive

START_S = 60.0


def add_plan_arguments(plan: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``embedfleet plan``."""
    plan.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a name of the catalog, a hub id, or a folder; needed for --card and --sample",
    )
    _add_work(plan)
    _add_speed(plan)
    _add_corpus(plan)
    _add_trace(plan)
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")


def whole(text: str) -> int:
    """Parses a whole number from 0. Raises ArgumentTypeError, which argparse prints."""
    return 0 if text == "0" else positive(text)


def above_0(text: str) -> float:
    """Parses a finite number above 0. Raises ArgumentTypeError, which argparse prints."""
    number = _number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def from_0(text: str) -> float:
    """Parses a finite number from 0. Raises ArgumentTypeError."""
    number = _number(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return number


def share(text: str) -> float:
    """Parses a number above 0 and up to 1. Raises ArgumentTypeError."""
    number = _number(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 1")
    return number


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number


def _add_work(plan: argparse.ArgumentParser) -> None:
    work = plan.add_argument_group("what there is to do (--rows, --sample or --trace)")
    work.add_argument(
        "--rows", type=positive, metavar="N", help="rows of a corpus (default: those of --sample)"
    )
    work.add_argument(
        "--tokens-per-row", type=above_0, metavar="N", help="goes with --rows, without --sample"
    )
    work.add_argument(
        "--sample",
        metavar="FILE",
        help="rows of the corpus, as for `embedfleet encode`; MODEL's tokenizer counts their tokens",
    )
    work.add_argument("--text-column", metavar="NAME", help="of --sample (default: text)")
    work.add_argument(
        "--trace",
        metavar="FILE",
        help="online traffic: CSV with the columns time and tokens, or the JSON of a Prometheus range "
        "query for tokens/s",
    )


def _add_speed(plan: argparse.ArgumentParser) -> None:
    speed = plan.add_argument_group("how fast one replica is (one of these)")
    which = speed.add_mutually_exclusive_group()
    which.add_argument(
        "--tokens-per-second", type=above_0, metavar="N", help="as you have measured it"
    )
    which.add_argument(
        "--bench", metavar="FILE", help="what `embedfleet bench MODEL --json` printed there"
    )
    which.add_argument(
        "--card", metavar="NAME", help="hardware that this project has measured, such as cpu-bf16"
    )
    speed.add_argument(
        "--start-s",
        type=from_0,
        metavar="SECONDS",
        help=f"how long a replica takes to start (default: {START_S:g})",
    )
    speed.add_argument(
        "--price-per-replica-hour",
        type=above_0,
        metavar="PRICE",
        help="what a replica's GPU or machine costs you for an hour, in any currency",
    )
    speed.add_argument("--max-replicas", type=positive, metavar="N", help="the most you can have")


def _add_corpus(plan: argparse.ArgumentParser) -> None:
    corpus = plan.add_argument_group("for a corpus (default: one replica)")
    corpus.add_argument(
        "--deadline-hours", type=above_0, metavar="HOURS", help="the fewest replicas that keep it"
    )
    corpus.add_argument(
        "--budget",
        type=above_0,
        metavar="MONEY",
        help="as many replicas as it pays for, while starting them takes at most a tenth of the hours; "
        "with --deadline-hours, the most that this may cost; "
        "needs --price-per-replica-hour",
    )
    corpus.add_argument(
        "--efficiency",
        type=share,
        metavar="SHARE",
        help="the share of a replica's tokens/s that a corpus job reaches (default: 0.75, as measured "
        "where the job shares the replica's cores)",
    )


def _add_trace(plan: argparse.ArgumentParser) -> None:
    trace = plan.add_argument_group("for a trace")
    trace.add_argument(
        "--min-replicas",
        type=whole,
        metavar="N",
        help="replicas.min_replicas of the config (default: 1)",
    )
    trace.add_argument(
        "--utilisation",
        type=share,
        nargs="+",
        metavar="SHARE",
        help="replicas.utilisation of the config; several are compared (default: 0.7)",
    )
    trace.add_argument(
        "--tokens-per-request",
        type=above_0,
        metavar="N",
        help="for Ray's default policy, which counts requests, if the trace's rows are not requests",
    )
    trace.add_argument(
        "--picture", metavar="FILE.svg", help="draw the replicas and the waits over time"
    )

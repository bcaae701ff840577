"""``embedfleet plan``: what a corpus or recorded traffic needs, before it is paid for.

It needs no service. To count tokens it reads a model's tokenizer, and to compare with Ray Serve's default
policy it imports Ray, but starts none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cluster.plan.errors import ImpossiblePlan, PlanError

if TYPE_CHECKING:
    from cluster.plan.corpus_plan import CorpusPlan
    from cluster.plan.trace_plan import TracePlan

_IMPOSSIBLE, _WRONG = 1, 2
_OF_CORPUS = (
    "rows",
    "tokens_per_row",
    "sample",
    "text_column",
    "deadline_hours",
    "budget",
    "efficiency",
)
_OF_TRACE = ("min_replicas", "utilisation", "tokens_per_request", "picture")


def run(args: argparse.Namespace) -> int:
    """Prints a plan and returns the exit status.

    That is 1 if nothing meets the deadline or the budget, and 2 if the options or a file are wrong.
    """
    try:
        _check(args)
        plan = _plan(args)
    except PlanError as error:
        print(f"embedfleet: {error}", file=sys.stderr)
        return _IMPOSSIBLE if isinstance(error, ImpossiblePlan) else _WRONG
    print(json.dumps(plan.as_dict(), indent=2) if args.json else plan.as_text())
    return 0


def _plan(args: argparse.Namespace) -> CorpusPlan | TracePlan:
    if args.trace is not None:
        from cluster.plan.trace_plan import trace_plan

        return trace_plan(args)
    from cluster.plan.corpus_plan import corpus_plan

    return corpus_plan(args)


def _check(args: argparse.Namespace) -> None:
    """Raises PlanError for options that are missing, all at once, or do not belong together."""
    kind, others = ("--trace", _OF_CORPUS) if args.trace is not None else ("a corpus", _OF_TRACE)
    for name in others:
        if getattr(args, name) is not None:
            raise PlanError(f"--{name.replace('_', '-')} does not go with {kind}: drop it")
    if args.text_column is not None and args.sample is None and args.rows is not None:
        raise PlanError("--text-column is for --sample: pass one, or drop it")
    if missing := list(_missing(args)):
        raise PlanError("; ".join(missing))


def _missing(args: argparse.Namespace) -> Iterator[str]:
    """Yields a sentence for each thing that the plan needs and has not got."""
    if args.trace is None and args.rows is None and args.sample is None:
        yield (
            "say what there is to do: --rows and --tokens-per-row, a --sample of the corpus, or a --trace"
        )
    if args.rows is not None and args.sample is None and args.tokens_per_row is None:
        yield "--rows needs --tokens-per-row, or a --sample whose tokens are counted"
    if args.tokens_per_second is None and args.bench is None and args.card is None:
        yield (
            "say how fast one replica is: --tokens-per-second, --card, or --bench with what `embedfleet "
            "bench --json` printed"
        )
    if args.model is None and (args.sample is not None or args.card is not None):
        option = "--sample" if args.sample is not None else "--card"
        yield f"{option} needs a MODEL, such as all-MiniLM-L6-v2, before the options"
    if args.budget is not None and args.price_per_replica_hour is None:
        yield "--budget needs --price-per-replica-hour, in the same currency"

"""The plan of a corpus: replicas, hours, cost and cores for a deadline or a budget."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from typing import Any

from cluster.plan.arguments import START_S
from cluster.plan.errors import ImpossiblePlan, PlanError
from cluster.plan.speed import ReplicaSpeed, replica_speed
from cluster.service.tables import table
from deployments.core.planning.corpus import (
    Infeasible,
    Job,
    replicas_for_budget,
    replicas_for_deadline,
)
from deployments.core.planning.measured import EFFICIENCY, JOB_START_S, ROUTER_CPU_S, WORKER_CPU_S

_MILLION = 1_000_000


@dataclass(frozen=True)
class Corpus:
    """Rows and their tokens, prompts included, and what to know of how they were counted."""

    rows: int
    tokens: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CorpusPlan:
    """What a corpus takes. ``cost`` is None without a price; cores are those that are busy on average.

    ``worker_cores`` serve ``embedfleet encode``, ``router_cores`` the same texts sent over HTTP instead.
    """

    rows: int
    tokens: int
    tokens_per_s: float
    speed_source: str
    efficiency: float
    start_s: float
    replicas: int
    hours: float
    replica_hours: float
    cost: float | None
    worker_cores: int
    router_cores: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """Returns the plan for a terminal."""
        rows: list[tuple[str, str]] = [
            ("corpus", f"{self.rows:,} rows, {self.tokens:,} tokens"),
            ("one replica", f"{self.tokens_per_s:,.0f} tokens/s ({self.speed_source})"),
            ("a job reaches", f"{self.efficiency:g} of that, {self.start_s:g} s after its start"),
            ("replicas", f"{self.replicas:,}"),
            ("time", _duration(self.hours)),
            ("replica-hours", f"{self.replica_hours:,.2f}"),
        ]
        if self.cost is not None:
            rows.append(("cost", f"{self.cost:,.2f}"))
        rows.append(
            (
                "CPU cores",
                f"{self.worker_cores:,} for corpus workers, or {self.router_cores:,} for routers if the "
                "texts come over HTTP",
            )
        )
        return "\n".join([table(("PLAN", ""), rows), *self.notes])


def _duration(hours: float) -> str:
    return f"{hours:,.2f} hours" if hours >= 1 else f"{hours * 60:,.1f} minutes"


def corpus_plan(args: argparse.Namespace) -> CorpusPlan:
    """Returns the plan of a corpus. The options are complete. Raises PlanError."""
    corpus = _corpus(args)
    speed = replica_speed(args, corpus.tokens / corpus.rows)
    efficiency = EFFICIENCY if args.efficiency is None else args.efficiency
    start_s = (START_S if args.start_s is None else args.start_s) + JOB_START_S
    job = Job(corpus.tokens, speed.tokens_per_s, efficiency, start_s)
    return _planned(corpus, speed, job, _replicas(job, args), args.price_per_replica_hour)


def _planned(
    corpus: Corpus, speed: ReplicaSpeed, job: Job, replicas: int, price: float | None
) -> CorpusPlan:
    rate = job.tokens_per_s * job.efficiency * replicas / _MILLION
    return CorpusPlan(
        rows=corpus.rows,
        tokens=round(corpus.tokens),
        tokens_per_s=job.tokens_per_s,
        speed_source=speed.source,
        efficiency=job.efficiency,
        start_s=job.start_s,
        replicas=replicas,
        hours=job.seconds(replicas) / 3_600,
        replica_hours=job.replica_hours(replicas),
        cost=None if price is None else price * job.replica_hours(replicas),
        worker_cores=math.ceil(rate * WORKER_CPU_S),
        router_cores=math.ceil(rate * ROUTER_CPU_S),
        notes=corpus.notes,
    )


def _corpus(args: argparse.Namespace) -> Corpus:
    if args.sample is None:
        return Corpus(args.rows, args.rows * args.tokens_per_row)
    if args.tokens_per_row is not None:
        raise PlanError("--tokens-per-row and --sample cannot be combined: drop one")
    from cluster.plan.sample import count_tokens

    counted = count_tokens(args.model, args.sample, args.text_column or "text")
    rows = args.rows or counted.rows
    notes = []
    if counted.unreadable:
        notes.append(
            f"{counted.unreadable:,} rows of the sample have no text and would be rejected"
        )
    if counted.over_limit:
        notes.append(
            f"{counted.over_limit:,} texts of the sample are over the model's limit: they are counted "
            "as truncated (--truncate of embedfleet encode), and would be rejected otherwise"
        )
    return Corpus(rows, counted.tokens * rows / counted.rows, tuple(notes))


def _replicas(job: Job, args: argparse.Namespace) -> int:
    most: int | None = args.max_replicas
    if args.deadline_hours is not None:
        replicas = _for_deadline(job, args.deadline_hours, most)
        if args.budget is not None:
            _check_budget(job, replicas, args.budget, args.price_per_replica_hour)
        return replicas
    if args.budget is not None:
        paid = _for_budget(job, args.budget, args.price_per_replica_hour)
        return paid if most is None else min(most, paid)
    return most or 1


def _for_deadline(job: Job, hours: float, most: int | None) -> int:
    try:
        replicas = replicas_for_deadline(job, hours * 3_600)
    except Infeasible as error:
        raise ImpossiblePlan(
            f"--deadline-hours {hours:g} is too short: starting the replicas alone takes "
            f"{error.limit:g} s (--start-s)"
        ) from None
    if most is not None and replicas > most:
        raise ImpossiblePlan(
            f"--deadline-hours {hours:g} takes {replicas:,} replicas, and --max-replicas is {most:,}: "
            f"with those the corpus takes {job.seconds(most) / 3_600:,.2f} hours"
        )
    return replicas


def _for_budget(job: Job, budget: float, price: float) -> int:
    try:
        return replicas_for_budget(job, budget / price)
    except Infeasible as error:
        raise ImpossiblePlan(
            f"--budget {budget:g}: {error}: the least is {error.limit * price:,.2f}, at "
            f"--price-per-replica-hour {price:g}"
        ) from None


def _check_budget(job: Job, replicas: int, budget: float, price: float) -> None:
    cost = price * job.replica_hours(replicas)
    if cost > budget:
        most = _for_budget(job, budget, price)
        raise ImpossiblePlan(
            f"the deadline takes {replicas:,} replicas, which cost {cost:,.2f}; --budget {budget:g} "
            f"pays for {most:,}, with which the corpus takes {job.seconds(most) / 3_600:,.2f} hours"
        )

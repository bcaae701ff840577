"""The service's metrics: recorded through Ray where decisions are made, read back from every node.

Ray exports what its processes record on one port a node; `/metrics` joins those pages, so that any
router replica answers for the whole cluster. Ray refreshes them every ten seconds or so.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter as Tally
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import httpx
import ray
from ray.util.metrics import Counter, Gauge, Histogram

from deployments.core.batching.lanes import DropReason
from deployments.core.batching.observing import Observer, Pass
from deployments.core.lane import Lane
from deployments.core.routing.facts import ModelState
from deployments.core.tenants.usage import Counts

log = logging.getLogger("ray.serve")
PREFIX = "embedfleet_"
_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60]
_COUNTS = [float(2**power) for power in range(11)]
_SHARES = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
_TELL_EVERY_S = 0.5
_SCRAPE_TIMEOUT_S = 3.0
_NOISE = re.compile(r'(?<=[{,])(Component|SessionName|Version|otel_\w+)="[^"]*",?')


class BatcherMetrics(Observer):
    """Records what a replica's lanes and engine do.

    Sums are kept here while passes follow each other, since Ray's counters take 4% of a pass.
    """

    def __init__(self, model: str, token_budget: int) -> None:
        self._model = model
        self._token_budget = token_budget
        self._texts = self._tokens = 0
        self._busy_s = self._told = 0.0

    def ran(self, done: Pass) -> None:
        """A micro-batch went through the engine: its size, its cost, how long its texts waited."""
        tags, texts, tokens = {"model": self._model}, len(done.lengths), sum(done.lengths)
        self._texts += texts
        self._tokens += tokens
        self._busy_s += done.seconds
        _histogram("forward_seconds", "Time of a pass, less what it gave way", _SECONDS).observe(
            done.seconds, tags
        )
        _histogram("batch_texts", "Texts in a micro-batch", _COUNTS).observe(texts, tags)
        _histogram("batch_fill_ratio", "Cost of a pass over the token budget", _SHARES).observe(
            done.cost / self._token_budget, tags
        )
        _histogram("batch_padding_ratio", "Share of padding in a pass", _SHARES).observe(
            1 - tokens / done.cost, tags
        )
        wait = _histogram("queue_seconds", "Wait of a text for its pass", _SECONDS, "lane")
        for lane, queued_s in done.queued_s.items():
            wait.observe(queued_s, {**tags, "lane": lane})

    def dropped(self, lane: Lane, reason: DropReason) -> None:
        """A text left its lane without a forward pass."""
        _counter("dropped_texts_total", "Texts dropped uncomputed", "lane", "reason").inc(
            1, {"model": self._model, "lane": lane, "reason": reason}
        )

    def refused(self, lane: Lane, texts: int) -> None:
        """A call was turned away because its lane is full."""
        _counter("refused_texts_total", "Texts refused for overload", "lane").inc(
            texts, {"model": self._model, "lane": lane}
        )

    def waiting(self, backlog: Mapping[Lane, tuple[int, int]]) -> None:
        """Records the lanes' backlog, and the sums, at most twice a second."""
        now = time.monotonic()
        if now - self._told < _TELL_EVERY_S:
            return
        self._told = now
        for lane, (texts, tokens) in backlog.items():
            tags = {"model": self._model, "lane": lane}
            _gauge("queue_texts", "Texts that wait", "lane").set(texts, tags)
            _gauge("queue_tokens", "Tokens that wait", "lane").set(tokens, tags)
        if self._texts:
            self._tell_sums()

    def _tell_sums(self) -> None:
        tags = {"model": self._model}
        _counter("tokens_total", "Tokens computed, without padding").inc(self._tokens, tags)
        _counter("texts_total", "Texts computed").inc(self._texts, tags)
        # Ray guesses the sum of a histogram from its buckets
        _counter("busy_seconds_total", "Time in forward passes, less what they gave way").inc(
            self._busy_s, tags
        )
        self._texts = self._tokens = 0
        self._busy_s = 0.0


class DecisionMetrics:
    """Records which model was chosen, and why."""

    def chose(self, model: str, reason: str) -> None:
        """A request goes to this model."""
        _counter("decisions_total", "Requests by the model chosen and why", "reason").inc(
            1, {"model": model, "reason": reason}
        )


class TenantMetrics:
    """Records what tenants use. Their names come from the keys file, so there are not many."""

    def used(self, tenant: str, model: str, counts: Counts) -> None:
        """A tenant has used so much of a model, which is "" if none was chosen."""
        tags = {"tenant": tenant, "model": model or "none"}
        totals = {
            "tenant_requests_total": ("Requests answered to a tenant", counts.requests),
            "tenant_tokens_total": ("Tokens computed for a tenant", counts.tokens),
            "tenant_refusals_total": ("Requests of a tenant answered 429", counts.refusals),
        }
        for name, (description, count) in totals.items():
            if count:
                _counter(name, description, "tenant").inc(count, tags)


@dataclass(frozen=True)
class Replicas:
    """How many replicas of a model run and should run, and the speed of one in tokens per second."""

    running: int
    wanted: int
    tokens_per_s: int


class FleetMetrics:
    """Records what a router knows of models and spaces: every router the same, but for the refusals.

    Refusals are counted here until `tell_refusals`, since Ray's counters cost more than a refusal.
    """

    def __init__(self) -> None:
        self._refusals: Tally[tuple[str, Lane]] = Tally()

    def model(self, model: str, state: ModelState, replicas: Replicas) -> None:
        """The state of a model, and its replicas."""
        tags = {"model": model}
        _gauge("replicas", "Replicas of a model").set(replicas.running, tags)
        _gauge("replicas_wanted", "Replicas that a model should have").set(replicas.wanted, tags)
        _gauge("capacity_tokens_per_second", "Measured speed of all replicas").set(
            replicas.running * replicas.tokens_per_s, tags
        )
        for each in ModelState:
            _gauge("model_state", "1 for the state that a model is in", "state").set(
                each is state, {**tags, "state": each}
            )

    def refused(self, model: str, lane: Lane) -> None:
        """A request for this model gets 429, since its lane is full."""
        self._refusals[model, lane] += 1

    def tell_refusals(self) -> None:
        """Records the refusals since the last time."""
        for (model, lane), count in self.take_refusals().items():
            _counter("refused_requests_total", "Requests that found a lane full", "lane").inc(
                count, {"model": model, "lane": lane}
            )

    def take_refusals(self) -> Mapping[tuple[str, Lane], int]:
        """Returns the refusals that have not been recorded, by model and lane, and forgets them."""
        refusals, self._refusals = self._refusals, Tally()
        return refusals

    def space(self, space: str, agrees: bool) -> None:
        """Whether the members of a configured space were found to agree."""
        _space_gauge().set(agrees, {"space": space})


class RequestMetrics:
    """Records what the wire answers."""

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        tags = {"route": route, "status": str(status)}
        _http_counter().inc(1, tags)
        _http_seconds().observe(seconds, {"route": route})


@cache
def _counter(name: str, description: str, *tags: str) -> Counter:
    return Counter(PREFIX + name, description, tag_keys=("model", *tags))


@cache
def _gauge(name: str, description: str, *tags: str) -> Gauge:
    return Gauge(PREFIX + name, description, tag_keys=("model", *tags))


def _histogram(name: str, description: str, bounds: list[float], *tags: str) -> Histogram:
    return _histogram_of(name, description, tuple(bounds), tags)


@cache
def _histogram_of(
    name: str, description: str, bounds: tuple[float, ...], tags: tuple[str, ...]
) -> Histogram:
    return Histogram(PREFIX + name, description, list(bounds), ("model", *tags))


@cache
def _space_gauge() -> Gauge:
    return Gauge(PREFIX + "space_agrees", "1 if the members of a space agree", ("space",))


@cache
def _http_counter() -> Counter:
    return Counter(PREFIX + "requests_total", "Requests answered", ("route", "status"))


@cache
def _http_seconds() -> Histogram:
    return Histogram(PREFIX + "request_seconds", "Time of a request", _SECONDS, ("route",))


class ClusterMetrics:
    """The metrics of the whole cluster. Callers that ask while they are gathered share one answer."""

    def __init__(self, gather: Callable[[], Coroutine[None, None, str]]) -> None:
        self._gather = gather
        self._gathering: asyncio.Task[str] | None = None

    async def page(self) -> str:
        """Returns the metrics; a caller that leaves does not end the gathering for the others."""
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._gather())
        return await asyncio.shield(self._gathering)


async def scrape_cluster() -> str:
    """Returns the metrics of every node, in Prometheus' text format.

    A node that does not answer within seconds is left out, and the log says so.
    """
    nodes = await asyncio.to_thread(ray.nodes)
    urls = [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in nodes
        if node["Alive"]
    ]
    # plain HTTP: loading certificates would hold the router's event loop for 20 ms
    async with httpx.AsyncClient(
        timeout=_SCRAPE_TIMEOUT_S, trust_env=False, verify=False
    ) as client:
        pages = await asyncio.gather(*(_page(client, url) for url in urls))
    return await asyncio.to_thread(merge_pages, pages)


async def _page(client: httpx.AsyncClient, url: str) -> str:
    try:
        return (await client.get(url)).text
    except httpx.HTTPError as error:
        log.warning("the metrics of %s are left out: %s", url, error)
        return ""


def merge_pages(pages: Iterable[str]) -> str:
    """Returns our metric families of all pages, each described once, without Ray's prefix."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for page in pages:
        samples: list[str] = []
        for line in page.splitlines():
            ours = _NOISE.sub("", line).replace("ray_" + PREFIX, PREFIX, 1)
            if line.startswith(("# HELP ", "# TYPE ")):
                name = ours.split(maxsplit=3)[2]
                headers, samples = families.setdefault(name, ([], []))
                if ours not in headers:
                    headers.append(ours)
            elif not line.startswith("#"):
                samples.append(ours)
    kept = {name: family for name, family in families.items() if name.startswith(PREFIX)}
    return "".join(f"{line}\n" for headers, samples in kept.values() for line in headers + samples)

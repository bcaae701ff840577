"""What tenants have used: requests, tokens and refusals, by model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass
class Counts:
    """``requests`` were answered, ``tokens`` computed for them, and ``refusals`` are those for which the
    tenant or the model had reached a limit.
    """

    requests: int = 0
    tokens: int = 0
    refusals: int = 0

    def add(self, other: Counts) -> None:
        """Adds those of another time or place."""
        self.requests += other.requests
        self.tokens += other.tokens
        self.refusals += other.refusals


@dataclass(frozen=True)
class TenantUsage:
    """What one tenant has used of each model since ``since`` (seconds since 1970) at ``routers`` routers.

    It ``is_complete`` if these are all routers of the service.
    """

    since: float
    models: Mapping[str, Counts]
    routers: int = 1
    is_complete: bool = True


@dataclass
class Usage:
    """The counts of one router, which started at ``since``. Not thread-safe."""

    since: float = 0.0
    _total: dict[str, dict[str, Counts]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counts))
    )
    _news: dict[tuple[str, str], Counts] = field(default_factory=lambda: defaultdict(Counts))

    def add(self, tenant: str, model: str, counts: Counts) -> None:
        """A tenant has used so much of a model; the model is "" if none was chosen yet."""
        self._total[tenant][model].add(counts)
        self._news[tenant, model].add(counts)

    def of(self, tenant: str) -> TenantUsage:
        """Returns what a tenant has used so far."""
        return TenantUsage(self.since, {m: Counts(**vars(c)) for m, c in self._models(tenant)})

    def take_news(self) -> dict[tuple[str, str], Counts]:
        """Returns what was added since the last call, by tenant and model."""
        news, self._news = self._news, defaultdict(Counts)
        return news

    def _models(self, tenant: str) -> Iterable[tuple[str, Counts]]:
        return self._total[tenant].items() if tenant in self._total else ()


def combined(usages: Iterable[TenantUsage], is_complete: bool) -> TenantUsage:
    """Returns what a tenant has used at several routers, at least one."""
    every = list(usages)
    models: dict[str, Counts] = defaultdict(Counts)
    for usage in every:
        for model, counts in usage.models.items():
            models[model].add(counts)
    since = min(usage.since for usage in every)
    return TenantUsage(since, models, sum(usage.routers for usage in every), is_complete)

"""What tenants have used of their limits, in one router."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from deployments.core.errors import RateLimited
from deployments.core.lane import Lane
from deployments.core.tenants.bucket import TokenBucket
from deployments.core.tenants.tenant import Tenant
from deployments.core.tenants.usage import Counts, Usage

NO_MODEL = ""  # of a request that is refused before a model is chosen
_RETRY_AFTER_S = 1.0  # for a request to end


@dataclass(frozen=True)
class Quota:
    """A limit, what is left of it, and the seconds until all of it is there again."""

    limit: int
    remaining: int
    reset_s: float


class TenantLimits:
    """Admits or refuses calls of tenants. Not thread-safe; the clock is passed in.

    ``usage`` counts what they have used, limited or not.
    """

    def __init__(self, started: float = 0.0) -> None:
        """``started`` is the time since 1970 from which ``usage`` counts."""
        self.usage = Usage(started)
        self._buckets: dict[tuple[str, Lane], TokenBucket] = {}
        self._inside: Counter[str] = Counter()
        self._routers = 1
        self._heard: dict[str, Mapping[str, int]] = {}

    def enter(self, tenant: Tenant) -> None:
        """One more request of the tenant is in progress. Raises RateLimited; `leave` must follow."""
        if (most := self._most(tenant)) is not None and self._inside[tenant.name] >= most:
            self.usage.add(tenant.name, NO_MODEL, Counts(refusals=1))
            raise RateLimited(
                f"{tenant.name} has {self._inside[tenant.name]} requests in progress at this router, "
                f"which is its share of the {tenant.concurrent_requests} that it may have; retry when "
                "one has ended",
                None,
                _RETRY_AFTER_S,
            )
        self._inside[tenant.name] += 1

    def leave(self, tenant: Tenant) -> None:
        """One that had entered is answered."""
        self._inside[tenant.name] -= 1

    def charge(self, tenant: Tenant, lane: Lane, tokens: int, now: float) -> None:
        """Takes about so many tokens from the tenant's limit. Raises RateLimited.

        ``retry_after_s`` is None if the call is larger than the limit of a whole minute.
        """
        bucket = self._bucket(tenant, lane, now)
        if bucket is None:
            return
        if tokens > bucket.per_minute:
            raise RateLimited(
                f"this request has about {tokens} tokens, but {tenant.name} may use "
                f"{bucket.per_minute} {lane} tokens per minute; send fewer texts per request"
            )
        if wait_s := bucket.wait_s(tokens, now):
            raise RateLimited(
                f"{tenant.name} has used up its {bucket.per_minute} {lane} tokens per minute; retry "
                "later",
                None,
                wait_s,
            )
        bucket.take(tokens, now)

    def correct(self, tenant: Tenant, lane: Lane, tokens: int, now: float) -> None:
        """Takes so many tokens more, or gives them back if the number is negative."""
        if (bucket := self._bucket(tenant, lane, now)) is not None:
            bucket.take(tokens, now)

    def tokens(self, tenant: Tenant, lane: Lane, now: float) -> Quota | None:
        """Returns the limit of a lane's tokens, if there is one."""
        bucket = self._bucket(tenant, lane, now)
        if bucket is None:
            return None
        return Quota(bucket.per_minute, bucket.remaining(now), bucket.full_after_s(now))

    def requests(self, tenant: Tenant) -> Quota | None:
        """Returns the limit of requests in progress, if there is one."""
        if (most := self._most(tenant)) is None or tenant.concurrent_requests is None:
            return None
        left = max(0, most - self._inside[tenant.name])
        return Quota(tenant.concurrent_requests, left, 0.0 if left else _RETRY_AFTER_S)

    def taken(self) -> dict[str, int]:
        """Returns what each tenant has taken of each lane in this router, for the other routers."""
        return {_key(*key): bucket.taken for key, bucket in self._buckets.items()}

    def exchange(self, others: Mapping[str, Mapping[str, int]], now: float) -> None:
        """``others`` is what `taken` returns in each of the other routers that live, by their names.

        The first time that a router is heard of, what it has taken so far counts as long past.
        """
        self._routers = 1 + len(others)
        news: Counter[str] = Counter()
        for router, taken in others.items():
            before = self._heard.get(router, taken)
            for key, total in taken.items():
                news[key] += max(0, total - before.get(key, 0))
        self._heard = dict(others)
        for (name, lane), bucket in self._buckets.items():
            bucket.exchange(news[_key(name, lane)], self._routers, now)

    def _most(self, tenant: Tenant) -> int | None:
        """Returns this router's share of the requests that a tenant may have in progress."""
        if tenant.concurrent_requests is None:
            return None
        return -(-tenant.concurrent_requests // self._routers)

    def _bucket(self, tenant: Tenant, lane: Lane, now: float) -> TokenBucket | None:
        limit = tenant.tokens_per_minute.get(lane)
        if limit is None:
            return None
        bucket = self._buckets.get((tenant.name, lane))
        if bucket is None or bucket.per_minute != limit:  # the file has changed
            bucket = TokenBucket(limit, now, self._routers)
            self._buckets[tenant.name, lane] = bucket
        return bucket


def _key(name: str, lane: Lane) -> str:
    return f"{name}/{lane}"

"""A tenant: the name behind some of the service's API keys, and what these keys may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.core.lane import Lane


@dataclass(frozen=True, slots=True)
class Share:
    """Whose texts wait in a lane, and how much of it they get beside those of others."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Tenant:
    """Whoever calls with certain keys.

    ``models`` are the only ones that it may use; None means all. A tenant whose ``highest_priority`` is
    `offline` may not use the online lane. ``tokens_per_minute`` has the limits of the lanes that have
    one, and ``concurrent_requests`` the most requests at once, if that is limited. ``weight`` is its
    share of a lane beside other tenants that wait there.
    """

    name: str
    models: frozenset[str] | None = None
    highest_priority: Lane = Lane.ONLINE
    tokens_per_minute: Mapping[Lane, int] = field(default_factory=dict, hash=False)
    concurrent_requests: int | None = None
    weight: float = 1.0

    @property
    def share(self) -> Share:
        """What replicas know of it."""
        return Share(self.name, self.weight)

    def may_use(self, model: str) -> bool:
        """Whether it may use the model of this name."""
        return self.models is None or model in self.models

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit to what it uses."""
        return bool(self.tokens_per_minute) or self.concurrent_requests is not None


# callers whose key has no name, and all callers of a service without keys
ANYONE = Tenant("default")
SHARE_OF_ANYONE = ANYONE.share

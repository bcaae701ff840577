"""A tenant: the name behind some of the service's API keys, and what these keys may do."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.core.lane import Lane


@dataclass(frozen=True)
class Tenant:
    """Whoever calls with certain keys.

    ``models`` are the only ones that it may use; None means all. A tenant whose ``highest_priority`` is
    `offline` may not use the online lane.
    """

    name: str
    models: frozenset[str] | None = None
    highest_priority: Lane = Lane.ONLINE

    def may_use(self, model: str) -> bool:
        """Whether it may use the model of this name."""
        return self.models is None or model in self.models


# callers whose key has no name, and all callers of a service without keys
ANYONE = Tenant("default")

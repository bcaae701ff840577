"""What the HTTP API needs of the models behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deployments.api.responses import Explanation, ModelItem, SpaceItem
from deployments.core.lane import Lane
from deployments.core.request import Embeddings, EncodeRequest, TokenInput
from deployments.core.routing.facts import RequestFacts
from deployments.core.routing.policy import Decision
from deployments.core.tenants.usage import TenantUsage

Texts = Sequence[str] | TokenInput


class Backend(Protocol):
    """The models behind the API: in production the router, in the API's own tests fixed vectors."""

    async def choose(self, facts: RequestFacts, texts: Texts) -> Decision:
        """Returns which model answers. Raises what `routing.policy.choose` raises."""
        ...

    async def explain(self, facts: RequestFacts, texts: Texts) -> Explanation:
        """Returns which model would answer and why, with a reason for each model. Encodes nothing."""
        ...

    async def encode(
        self, decision: Decision, request: EncodeRequest, lane: Lane, deadline: float
    ) -> Embeddings:
        """Returns the vectors of a request, in the space that was decided on.

        ``deadline``, by `time.monotonic`, is that of the whole HTTP request. Raises EmbedfleetError.
        """
        ...

    def models(self) -> list[ModelItem]:
        """Returns every configured model and its state."""
        ...

    def spaces(self) -> list[SpaceItem]:
        """Returns every configured space, and whether its members agree."""
        ...

    def cluster_problem(self) -> str | None:
        """Returns why the service should get no requests although it runs; None if it may."""
        ...

    async def usage(self, tenant: str, own: TenantUsage) -> TenantUsage:
        """Returns what a tenant has used at all routers; ``own`` is what this one has counted."""
        ...

    async def metrics(self) -> str:
        """Returns the service's metrics in Prometheus' text format."""
        ...

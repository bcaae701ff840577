"""What the wire needs of whatever stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deployments.api.responses import Explanation, ModelItem, SpaceItem
from deployments.core.lane import Lane
from deployments.core.request import Embeddings, EncodeRequest, TokenInput
from deployments.core.routing.facts import Facts
from deployments.core.routing.policy import Decision

Texts = Sequence[str] | TokenInput


class Backend(Protocol):
    """The models behind the wire: the router in production, fixed vectors in the wire's own tests."""

    async def choose(self, facts: Facts, texts: Texts) -> Decision:
        """Returns which model answers; errors as `routing.choose`."""
        ...

    async def explain(self, facts: Facts, texts: Texts) -> Explanation:
        """Returns which model would answer and why, each model with its reason; runs nothing."""
        ...

    async def encode(
        self, decision: Decision, request: EncodeRequest, lane: Lane, deadline: float
    ) -> Embeddings:
        """Returns the vectors of a request, from the space that was decided on.

        The ``deadline``, by `time.monotonic`, is the whole request's. Raises EmbedfleetError
        subclasses.
        """
        ...

    def models(self) -> list[ModelItem]:
        """Returns every configured model and its state."""
        ...

    def spaces(self) -> list[SpaceItem]:
        """Returns every configured space and whether it holds."""
        ...

    async def metrics(self) -> str:
        """Returns the service's metrics in Prometheus' text format."""
        ...

"""What the wire needs of whatever stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.embedding.batching.lanes import Lane
from deployments.embedding.request import Embeddings, EncodeRequest, TokenInput
from deployments.embedding.routing.facts import Facts
from deployments.embedding.routing.policy import Decision

Texts = Sequence[str] | TokenInput


@dataclass(frozen=True)
class ModelCard:
    """One line of ``GET /v1/models``."""

    name: str
    repo: str
    state: str
    reason: str | None
    replicas: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class SpaceCard:
    """A configured space; ``worst_cosine`` is between its members, ``reason`` why it is refused."""

    name: str
    id: str | None
    state: str
    reason: str | None
    worst_cosine: float | None
    members: dict[str, list[str]]


@dataclass(frozen=True)
class CandidateCard:
    """A model as `/v1/route` shows it; ``passed_over`` is None for the one that would answer."""

    model: str
    size: str | None
    state: str
    space: str | None
    expected_ms: float
    passed_over: str | None


@dataclass(frozen=True)
class Explanation:
    """A decision that was not carried out; ``facts`` are what the texts told."""

    decision: Decision
    facts: Facts
    candidates: list[CandidateCard]


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

    def models(self) -> list[ModelCard]:
        """Returns every configured model and its state."""
        ...

    def spaces(self) -> list[SpaceCard]:
        """Returns every configured space and whether it holds."""
        ...

    async def metrics(self) -> str:
        """Returns the service's metrics in Prometheus' text format."""
        ...

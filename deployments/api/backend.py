"""What the wire needs of whatever stands behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from deployments.embedding.lanes import Lane
from deployments.embedding.request import Embeddings, EncodeRequest
from deployments.embedding.routing import Decision


@dataclass(frozen=True)
class ModelCard:
    """One line of ``GET /v1/models``."""

    name: str
    repo: str
    state: str
    reason: str | None
    replicas: int
    facts: dict[str, Any]


class Backend(Protocol):
    """The models behind the wire: the router in production, fixed vectors in the wire's own tests."""

    truncate: bool

    def choose(self, model: str | None) -> Decision:
        """Returns which model answers. Raises UnknownModel."""
        ...

    async def encode(self, model: str, request: EncodeRequest, lane: Lane) -> Embeddings:
        """Returns the vectors of a request. Raises EmbedfleetError subclasses."""
        ...

    def models(self) -> list[ModelCard]:
        """Returns every configured model and its state."""
        ...

    async def metrics(self) -> str:
        """Returns the service's metrics in Prometheus' text format."""
        ...

"""What a model's replicas say of themselves, and what the service says of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from deployments.config.schema import ModelConfig
from deployments.core.errors import DeadlineExceeded, EmbedfleetError, ModelUnavailable
from deployments.core.lane import Lane
from deployments.core.models.spec import ModelSpec, Role
from deployments.core.routing import facts

ModelState = facts.ModelState


class ReplicaState(StrEnum):
    """One replica's state."""

    LOADING = "loading"
    READY = "ready"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class ReplicaStatus:
    """What one replica says of itself; ``reason`` says why it is not ready.

    ``waiting`` are the tokens in its lanes, ``start_s`` is how long it took to load. ``gpu_ids`` are
    the GPUs that Ray has assigned to it, and ``memory_mib`` what it takes of one and may take.
    ``token_budget`` is the most tokens of a forward pass, ``streams`` how many passes of a lane run at
    once. ``space`` is the embedding space of its vectors. ``network`` is the path that its
    model takes, ``why_general`` why that is not the fast one, and ``compared_with`` the library that its
    vectors were compared with.
    """

    state: ReplicaState
    reason: str | None = None
    device: str | None = None
    dtype: str | None = None
    tokens_per_s: int | None = None
    waiting: Mapping[Lane, int] = field(default_factory=dict)
    start_s: float | None = None
    gpu_ids: tuple[str, ...] = ()
    memory_mib: tuple[int, int] | None = None
    token_budget: int | None = None
    streams: int | None = None
    space: str | None = None
    network: str | None = None
    why_general: str | None = None
    compared_with: str | None = None


@dataclass(frozen=True)
class ModelStatus:
    """A model as the whole service sees it.

    ``replica`` is what a replica said last, a ready one if there is one, with the tokens that wait at
    all of them; if none has said anything, it tells nothing. With ``may_come``, no node has room for a
    first replica, but a call has the cluster asked for one.
    """

    state: ModelState
    replicas: int = 0
    reason: str | None = None
    replica: ReplicaStatus = ReplicaStatus(ReplicaState.LOADING)
    may_come: bool = False

    @property
    def refuses(self) -> bool:
        """Whether a call could achieve nothing."""
        return self.state is ModelState.UNAVAILABLE and not self.may_come


@dataclass(frozen=True)
class ServedModel:
    """What answers to a name, as a corpus job has to know it: the model, the role that the name asks
    for, and the model's state.

    ``spec`` is None while the model's files have not been read.
    """

    config: ModelConfig
    spec: ModelSpec | None
    role: Role | None
    status: ModelStatus

    @property
    def pinned(self) -> ModelConfig:
        """The config with the revision that the service has read, so that nobody hashes weights again."""
        if self.spec is None:
            return self.config
        return self.config.model_copy(update={"revision": self.spec.revision})


def assume_ready() -> ModelStatus:
    """Stands in where nobody watches the replicas: each call then waits until its deadline."""
    return ModelStatus(ModelState.READY)


def late(name: str, status: ModelStatus, lane: Lane, left_s: float) -> EmbedfleetError:
    """Returns what a call was waiting for that has ended so many seconds before its deadline."""
    if status.state is ModelState.READY and left_s > 0.1:
        return ModelUnavailable(f"{name} was cold and has just started", "model", 1.0)
    if lane is Lane.ONLINE and status.state is not ModelState.READY:
        reason = status.reason or "no replica is ready"
        return ModelUnavailable(f"{name} is {status.state}: {reason}", "model", 5.0)
    return DeadlineExceeded(
        f"{name} did not answer within the deadline; send fewer texts a request, or raise "
        "`limits.request_timeout_s` in the config"
    )

"""What a client asks of a replica, and what the replica answers."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.config.schema import ModelConfig
from deployments.core.models.spec import Kind, ModelSpec
from deployments.core.tenants.tenant import SHARE_OF_ANYONE, Share

# gRPC between replicas takes 4 MB a message (RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH)
_MAX_REPLY_BYTES = 3_000_000
# Of a sparse vector. Those of trained models have a few hundred entries of 8 bytes each, which come as
# frames; even if none were zero, this many would fit into one (`deployments/wire/frames.py`).
_SPARSE_BYTES = 16_384
_MAX_FRAME_BYTES = 60_000_000


def texts_of_a_call(spec: ModelSpec) -> int:
    """Returns the most texts of a call, so that its answer is not too large."""
    if spec.kind is not Kind.SPARSE:
        return max(1, _MAX_REPLY_BYTES // (4 * spec.dimension))
    at_worst = _MAX_FRAME_BYTES // (8 * spec.dimension)
    return max(1, min(at_worst, _MAX_REPLY_BYTES // _SPARSE_BYTES))


@dataclass(frozen=True)
class Terms:
    """What a call asks of its replica: to be of this space, and to run the texts one by one where
    ``trial`` names the trial of texts that may have killed another replica. ``tenant`` and ``weight``
    are its share of the lane. Plain values only: calls by handle are pickled, and a replica of an older
    version has no class for what is new.
    """

    space: str
    trial: str | None = None
    tenant: str = SHARE_OF_ANYONE.name
    weight: float = SHARE_OF_ANYONE.weight

    @property
    def share(self) -> Share:
        """The tenant's share of the lane."""
        return Share(self.tenant, self.weight)


@dataclass(frozen=True)
class OtherVersion:
    """A replica's answer to a call that was made for another version: what it serves itself."""

    config: ModelConfig
    space: str

"""Batches and files as OpenAI's API has them, and the states that a batch passes through.

    validating → in_progress → finalizing → completed
         ↓             ↓            ↓
       failed     cancelling → cancelled; or expired

Times are Unix seconds. The clock is passed in.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from deployments.core.lane import Lane
from deployments.core.tenants.tenant import ANYONE, Tenant

BATCH_PREFIX, FILE_PREFIX = "batch_", "file-"
EVERYONE = "everyone"  # the owner of all files and batches of a service without keys
COMPLETION_WINDOW = "24h"
COMPLETION_S = 24 * 3600
_TIME_DIGITS, _RANDOM_BYTES = 11, 11  # milliseconds as hex digits, until the year 2527


class Status(StrEnum):
    """OpenAI's states of a batch."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


_NEXT: Mapping[Status, frozenset[Status]] = {
    Status.VALIDATING: frozenset(
        {Status.IN_PROGRESS, Status.FAILED, Status.CANCELLING, Status.EXPIRED}
    ),
    Status.IN_PROGRESS: frozenset(
        {Status.FINALIZING, Status.FAILED, Status.CANCELLING, Status.EXPIRED}
    ),
    Status.FINALIZING: frozenset({Status.COMPLETED, Status.FAILED}),
    Status.CANCELLING: frozenset({Status.CANCELLED, Status.FAILED}),
}


@dataclass(frozen=True)
class Counts:
    """The lines of a batch, and how many of them have an answer or an error so far."""

    total: int = 0
    completed: int = 0
    failed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.total + other.total,
            self.completed + other.completed,
            self.failed + other.failed,
        )


@dataclass(frozen=True)
class Problem:
    """Why a batch or one of its lines failed; ``param`` is the field, and ``line`` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class FileInfo:
    """A file of the store. ``content`` is the name under which the store keeps its bytes."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int
    content: str


@dataclass(frozen=True)
class Rights:
    """What the tenant of a batch might do when it was sent: the models that it might use (None means
    all), its limit of offline tokens, if it had one, and its weight in a lane.
    """

    name: str = ANYONE.name
    models: tuple[str, ...] | None = None
    tokens_per_minute: int | None = None
    weight: float = 1.0

    @classmethod
    def of(cls, tenant: Tenant) -> Rights:
        """Returns those of a tenant."""
        models = None if tenant.models is None else tuple(sorted(tenant.models))
        limit = tenant.tokens_per_minute.get(Lane.OFFLINE)
        return cls(tenant.name, models, limit, tenant.weight)

    @property
    def tenant(self) -> Tenant:
        """The tenant with these rights alone."""
        models = None if self.models is None else frozenset(self.models)
        limit = self.tokens_per_minute
        limits = {} if limit is None else {Lane.OFFLINE: limit}
        return Tenant(self.name, models, Lane.OFFLINE, limits, weight=self.weight)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch. ``times`` holds when it entered each state after the first.

    ``output_ttl_s`` is how long its results are kept. Their files exist once the batch `is_final`; one
    that would have no lines does not. ``starts`` counts how often work on it has begun since it last
    made progress.
    """

    id: str
    owner: str
    input_file_id: str
    endpoint: str
    created_at: int
    expires_at: int
    output_ttl_s: int
    rights: Rights = Rights()
    metadata: Mapping[str, str] | None = None
    status: Status = Status.VALIDATING
    times: Mapping[str, int] = field(default_factory=dict)
    request_counts: Counts = Counts()
    problems: tuple[Problem, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    starts: int = 0

    @property
    def is_final(self) -> bool:
        """Whether nothing about the batch changes any more."""
        return self.status not in _NEXT

    @property
    def may_be_cancelled(self) -> bool:
        """Whether work is left that can be called off."""
        return Status.CANCELLING in _NEXT.get(self.status, ())

    def moved(self, status: Status, now: float, **changes: Any) -> Batch:
        """Returns the batch in its next state. Raises ValueError if that cannot follow this one."""
        if status not in _NEXT.get(self.status, ()):
            raise ValueError(f"a batch cannot go from {self.status} to {status}")
        times = {**self.times, status.value: int(now)}
        return replace(self, status=status, times=times, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Returns the batch as JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        return cls(
            **{
                **content,
                "rights": _rights(content["rights"]),
                "status": Status(content["status"]),
                "request_counts": Counts(**content["request_counts"]),
                "problems": tuple(Problem(**problem) for problem in content["problems"]),
            }
        )


def _rights(content: Mapping[str, Any]) -> Rights:
    models = content["models"]
    return Rights(**{**content, "models": None if models is None else tuple(models)})


def made_at(object_id: str, prefix: str) -> float:
    """Returns when an id was made."""
    return int(object_id.removeprefix(prefix)[:_TIME_DIGITS], 16) / 1000


def new_id(prefix: str, now: float) -> str:
    """Returns an id that cannot be guessed. Ids sort by the time at which they were made."""
    return f"{prefix}{int(now * 1000):0{_TIME_DIGITS}x}{secrets.token_hex(_RANDOM_BYTES)}"


def derived_id(prefix: str, other: str, other_prefix: str, what: str) -> str:
    """Returns an id that follows from another one, so that it is the same on every attempt."""
    digest = hashlib.sha256(f"{other} {what}".encode()).hexdigest()
    time = other.removeprefix(other_prefix)[:_TIME_DIGITS]
    return f"{prefix}{time}{digest[: 2 * _RANDOM_BYTES]}"

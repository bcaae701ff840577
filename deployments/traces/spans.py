"""The steps of a request, as the code that takes them marks them: read, choose, tokenize, encode.

Without a trace, `span` costs a look at a context variable. Nothing here imports OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol, Self

Attributes = Mapping[str, str | int]


class Span:
    """A step of a request. This one stands for all of them if there is no trace, and records nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def split(self, waited_s: float, computed_s: float) -> None:
        """Says how much of the step was a replica's queue, and how much its forward passes."""


class Recorder(Protocol):
    """The trace of one request."""

    def step(self, name: str, attributes: Attributes) -> Span:
        """As `span`."""
        ...


recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
_NOTHING = Span()


def span(name: str, **attributes: str | int) -> Span:
    """Returns the span of a step of the request that is being answered, to be entered at once."""
    recording = recorder.get()
    return _NOTHING if recording is None else recording.step(name, attributes)

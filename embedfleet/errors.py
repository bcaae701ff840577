"""What `Client` and `AsyncClient` raise.

EmbedfleetError
├── ServiceError     the service refused a request: status, code, param
│   └── SpaceMismatch   it does not answer in the space that the client has pinned
├── Unreachable      no answer came in time, or nothing listens there
└── UnexpectedAnswer   something else than embedfleet answered
"""

from __future__ import annotations


class EmbedfleetError(Exception):
    """The base of all errors of the client."""


class Unreachable(EmbedfleetError):
    """No answer came in time, or nothing listens at the address."""


class UnexpectedAnswer(EmbedfleetError):
    """The server at this address does not answer as embedfleet does.

    The message names the URL, the status and the content type.
    """


class ServiceError(EmbedfleetError):
    """The service refused a request.

    ``status`` is HTTP's; ``code`` and ``param`` are those of docs/api.md, None if a proxy answered.
    ``retry_after_s`` is set if the same request may succeed after that many seconds.
    """

    def __init__(
        self,
        message: str,
        status: int,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, status, code, param, retry_after_s)  # so that it unpickles
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


class SpaceMismatch(ServiceError):
    """The service does not answer in the space that the client has pinned (409)."""

"""Every error that a caller can see.

    EmbedfleetError            500  internal_error
    ├── InvalidRequest         400  invalid_value
    │   ├── ContextLengthExceeded   context_length_exceeded
    │   ├── KillsReplicas           text_kills_replicas
    │   ├── NoModelFits             no_model_fits
    │   ├── WrongKind               wrong_model_kind (a reranker asked for vectors, and the like)
    │   └── UnsupportedModel        unsupported_model (a model's files ask for what we cannot honour)
    ├── TextFailed             500  text_failed
    ├── Unauthorized           401  invalid_api_key
    ├── Forbidden              403  forbidden_host
    ├── ModelNotAllowed        403  model_not_allowed
    ├── PriorityNotAllowed     403  priority_not_allowed
    ├── UnknownModel           404  model_not_found
    ├── UnknownObject          404  object_not_found (a file or a batch)
    ├── BodyTooSlow            408  body_timeout
    ├── SpaceMismatch          409  embedding_space_mismatch
    ├── BodyTooLarge           413  body_too_large
    ├── UnsupportedEncoding    415  unsupported_encoding
    ├── UnsupportedMediaType   415  unsupported_media_type
    ├── Overloaded             429  overloaded
    ├── RateLimited            429  rate_limit_exceeded
    ├── ModelUnavailable       503  model_unavailable
    ├── DeadlineExceeded       504  deadline_exceeded
    └── StoreFailed            507  store_failed
        ├── StoreDamaged       507  store_damaged
        └── StoreSilent        503  store_unavailable

Errors cross process boundaries, so each passes all its arguments to ``Exception.__init__``: an
exception that does not is not unpickled on the other side.
"""

from __future__ import annotations

from typing import ClassVar


class EmbedfleetError(Exception):
    """An error with an HTTP status and the wire's ``type``, ``code`` and ``param``.

    ``retry_after_s`` is a duration in seconds after which the same call may succeed.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, param, retry_after_s)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


class InvalidRequest(EmbedfleetError):
    """A value that cannot be honoured; ``param`` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """A text longer than the model takes, and truncation was not asked for."""

    code = "context_length_exceeded"


class KillsReplicas(InvalidRequest):
    """Two replicas died on this text, the second with no other text in its forward pass."""

    code = "text_kills_replicas"


class NoModelFits(InvalidRequest):
    """No configured model can honour the request; the message says why of each."""

    code = "no_model_fits"


class WrongKind(InvalidRequest):
    """A model was asked for what another kind gives: dense vectors, sparse ones, or scores of pairs."""

    code = "wrong_model_kind"


class UnsupportedModel(InvalidRequest):
    """A model's own files ask for something that this service cannot honour."""

    code = "unsupported_model"


class TextFailed(EmbedfleetError):
    """The model gives no vector for this one text, on an engine that computes others."""

    code = "text_failed"


class Unauthorized(EmbedfleetError):
    """No API key, or a wrong one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(EmbedfleetError):
    """The request names a host that this service does not answer for."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden_host"


class ModelNotAllowed(EmbedfleetError):
    """The caller's API key is for other models."""

    status = 403
    type = "permission_error"
    code = "model_not_allowed"


class PriorityNotAllowed(EmbedfleetError):
    """The caller's API key is for a lower priority."""

    status = 403
    type = "permission_error"
    code = "priority_not_allowed"


class UnknownModel(EmbedfleetError):
    """The requested model is not configured."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class UnknownObject(EmbedfleetError):
    """No file or batch of the caller has this id."""

    status = 404
    type = "invalid_request_error"
    code = "object_not_found"


class BodyTooSlow(EmbedfleetError):
    """The request body had not arrived within the request's deadline."""

    status = 408
    type = "invalid_request_error"
    code = "body_timeout"


class SpaceMismatch(EmbedfleetError):
    """The required embedding space is not the one of the model that would answer."""

    status = 409
    type = "invalid_request_error"
    code = "embedding_space_mismatch"


class BodyTooLarge(EmbedfleetError):
    """The request body is over the configured limit."""

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class UnsupportedEncoding(EmbedfleetError):
    """The request body is compressed."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_encoding"


class UnsupportedMediaType(EmbedfleetError):
    """The request body is not declared to be JSON."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class Overloaded(EmbedfleetError):
    """More work waits than can be answered in time; retry after ``retry_after_s``."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class RateLimited(EmbedfleetError):
    """The caller's tenant has used up its limit; others have not."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class ModelUnavailable(EmbedfleetError):
    """The model is known but cannot answer now; the message says why."""

    status = 503
    type = "server_error"
    code = "model_unavailable"


class DeadlineExceeded(EmbedfleetError):
    """The answer was not ready within the request's deadline."""

    status = 504
    type = "server_error"
    code = "deadline_exceeded"


class StoreFailed(EmbedfleetError):
    """The store of files and batches cannot be read or written, such as when its disk is full."""

    status = 507
    code = "store_failed"


class StoreDamaged(StoreFailed):
    """One record of the store is damaged. Others can be read."""

    code = "store_damaged"


class StoreSilent(StoreFailed):
    """The store of files and batches does not answer."""

    status = 503
    code = "store_unavailable"

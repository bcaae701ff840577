"""Answers one line of a batch with the code of the online route, in the offline lane.

Lines are not rows of one corpus: each may set every field of the route, and so chooses its own model,
role, dimensions and format. They go through a backend like the router's, and not through the row encoder
of `embedfleet encode`. `EncoderClient` merges small requests into larger calls.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from deployments.api.backend import Backend
from deployments.api.bodies import check_values
from deployments.api.embeddings import Conditions, answered
from deployments.api.http import ApiLimits
from deployments.api.rate_limits import charged
from deployments.api.requests import EmbeddingRequest, parse
from deployments.api.responses import embeddings_body, error_body
from deployments.core.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    EmbedfleetError,
    ModelUnavailable,
    Overloaded,
    RateLimited,
)
from deployments.core.lane import Lane
from deployments.core.request import Embeddings, EncodeRequest
from deployments.core.routing.policy import Decision
from deployments.core.tenants.limits import TenantLimits
from deployments.core.tenants.tenant import ANYONE, Tenant
from deployments.core.tenants.usage import Counts

log = logging.getLogger("ray.serve")
_PASSING = (Overloaded, ModelUnavailable, DeadlineExceeded)
_ATTEMPT_S = 3_600.0  # replicas that are lost or silent are noticed long before
_PAUSE_S = 2.0
_ATTEMPTS_AFTER_BUGS = 3
_LARGE_BYTES = 32_768


class LineAnswers:
    """Answers lines, and repeats what fails for a passing reason."""

    def __init__(
        self,
        backend: Backend,
        limits: ApiLimits,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
        used: TenantLimits | None = None,
    ) -> None:
        """``patience_s`` is how long a model that does not answer is waited for. ``used`` is what the
        tenants have used here.
        """
        self._backend = backend
        self._limits = limits
        self._patience_s = patience_s
        self._clock = clock
        self._used = used or TenantLimits()
        self._silent_since: dict[str | None, float] = {}

    async def answer(self, body: bytes, tenant: Tenant = ANYONE) -> tuple[int, bytes]:
        """Returns the status and the body that the route would answer to a request of this tenant.

        A tenant whose tokens are limited waits for them, however long that takes.
        """
        try:
            request = await self._parsed(body)
            return 200, await self._until_answered(request, tenant)
        except EmbedfleetError as error:
            return error.status, error_body(error)

    async def _parsed(self, body: bytes) -> EmbeddingRequest:
        if len(body) > (most := self._limits.max_body_bytes):
            raise BodyTooLarge(
                f"the body is over {most} bytes; send fewer texts per line, or raise "
                "`limits.max_body_bytes` in the config"
            )
        if len(body) > _LARGE_BYTES:
            await asyncio.to_thread(check_values, body, self._limits.max_texts, "input")
        return parse(EmbeddingRequest, body).model_copy(update={"priority": Lane.OFFLINE})

    async def _until_answered(self, request: EmbeddingRequest, tenant: Tenant) -> bytes:
        failing_since: float | None = None
        bugs = 0
        while True:
            try:
                content = await self._attempt(request, tenant)
                self._silent_since.pop(request.model, None)
                return content
            except RateLimited as error:
                if error.retry_after_s is None:  # it is over the limit of a whole minute
                    raise
                pause_s, failing_since = error.retry_after_s, None
            except _PASSING as error:
                failing_since = self._clock() if failing_since is None else failing_since
                if self._is_given_up(request.model, failing_since):
                    raise
                pause_s = error.retry_after_s or _PAUSE_S
            except EmbedfleetError:
                raise
            except Exception:
                bugs, pause_s = bugs + 1, _PAUSE_S
                if bugs == _ATTEMPTS_AFTER_BUGS:
                    log.exception("a line of a batch has no answer")
                    raise EmbedfleetError("internal error; the service's log has it") from None
            await asyncio.sleep(pause_s)

    def _is_given_up(self, model: str | None, failing_since: float) -> bool:
        """Whether a line has failed, or its model has given no answer, for too long."""
        now = self._clock()
        silent_since = self._silent_since.setdefault(model, now)
        return now - min(failing_since, silent_since) > self._patience_s

    async def _attempt(self, request: EmbeddingRequest, tenant: Tenant) -> bytes:
        deadline = time.monotonic() + _ATTEMPT_S
        conditions = Conditions(self._limits, models=tenant.models)

        async def encode(decision: Decision, to_encode: EncodeRequest) -> Embeddings:
            to_encode = replace(to_encode, share=tenant.share)
            with charged(self._used, tenant, Lane.OFFLINE, to_encode, decision) as charge:
                embeddings = await self._backend.encode(decision, to_encode, Lane.OFFLINE, deadline)
                charge.tokens = embeddings.tokens
            counts = Counts(requests=1, tokens=embeddings.tokens)
            self._used.usage.add(tenant.name, embeddings.model, counts)
            return embeddings

        embeddings, _ = await answered(self._backend, request, conditions, deadline, encode)
        return await embeddings_body(embeddings, request.encoding_format, request.output_dtype)

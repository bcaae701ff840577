"""What the dialects of other servers share: strict bodies, and how an answer leaves.

A dialect translates a body into the typed request of a route of our own, and its answer back. The
model, its prompts and limits, and everything behind them are the same as on that route.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.bodies import read_request
from deployments.api.http import ApiLimits, ErrorFormat, embedding_response
from deployments.api.requests import Body, BodyT
from deployments.core.errors import BodyTooLarge, EmbedfleetError, InvalidRequest
from deployments.core.request import Embeddings
from deployments.core.routing.policy import Decision
from deployments.validation import explain, unknown_key

TRUNCATED = "x-truncated-texts"
_MAX_EXTRAS = 100


@dataclass(frozen=True)
class Dialect:
    """Another server whose routes are answered here, and how it writes errors."""

    name: str
    error_format: ErrorFormat


class DialectBody(Body):
    """A body in another server's shape; a field that is not part of it is refused.

    ``refused`` has that server's fields that cannot be honoured, and why. ``ignored`` are fields that
    change no vector and no score. A field that is null counts as left out.
    """

    refused: ClassVar[Mapping[str, str]] = {}
    ignored: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def as_refusal(cls, error: ValidationError, body: bytes) -> InvalidRequest:
        """Returns the answer to a body that is not of this kind, which names the field in full."""
        problem = explain(error, cls)
        if not problem.path:
            return super().as_refusal(error, body)
        first, *others = problem.path
        places = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in others)
        field = next(part for part in reversed(problem.path) if isinstance(part, str))
        return InvalidRequest(f"`{first}{''.join(places)}` {problem.message}", field)

    @classmethod
    def refuse_extra(cls, extra: Mapping[str, Any]) -> None:
        """Raises InvalidRequest for the first field that would have to be ignored."""
        for name, value in islice(extra.items(), _MAX_EXTRAS):
            if value is None or name in cls.ignored:
                continue
            reason = cls.refused.get(name) or f"is an {unknown_key(name, cls.model_fields)}"
            raise InvalidRequest(f"`{name}` {reason}", name)


async def read(kind: type[BodyT], request: Request) -> tuple[BodyT, float]:
    """Returns the request's body, and the time by which it must be answered."""
    limits: ApiLimits = request.app.state.limits
    deadline = limits.deadline()
    return await read_request(kind, request, limits, deadline), deadline


@contextmanager
def fields_named(**names: str) -> Iterator[None]:
    """Has errors name the dialect's fields; ``names`` has those of our own routes as keys."""
    try:
        yield
    except EmbedfleetError as error:
        message = error.message
        for ours, theirs in names.items():
            message = message.replace(f"`{ours}`", f"`{theirs}`")
        param = names.get(error.param or "", error.param)
        raise type(error)(message, param, error.retry_after_s) from None


def check_batch(request: Request, texts: int, field: str) -> None:
    """Raises BodyTooLarge if a request holds too many texts, for servers that answer 413 to that."""
    limits: ApiLimits = request.app.state.limits
    if texts > limits.max_texts:
        raise BodyTooLarge(
            f"`{field}` holds {texts} texts, but a request may hold at most {limits.max_texts}; send "
            "several requests",
            field,
        )


def respond(content: bytes, answers: Sequence[Embeddings], decision: Decision) -> Response:
    """Returns a 200 with the headers of our own routes, and how many texts were cut, if any were.

    Most dialects have no place for the latter in their answers. ``answers`` are all that the content
    was made of; the headers describe the first.
    """
    response = embedding_response(content, answers[0], decision)
    if cut := sum(len(answer.truncated) for answer in answers):
        response.headers[TRUNCATED] = str(cut)
    return response

"""The requests that a call consists of, and what their answers say. No input or output."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson

from embedfleet.errors import EmbedfleetError, ServiceError, SpaceMismatch, UnexpectedAnswer
from embedfleet.results import Embeddings, RankedDocument, Ranking, Vectors
from embedfleet.retries import retry_after_s

Role = Literal["query", "document"]
Priority = Literal["online", "offline"]
_CONFLICT = 409
_SERVER_ERRORS = range(500, 600)
# a proxy in front of the service, such as Ray Serve's own, may give these and all of 5xx itself
_OF_PROXIES = (401, 403, 408, 413, 429)


@dataclass(frozen=True)
class Bounds:
    """The largest request: in texts, and in bytes of its texts as JSON.

    They are below the defaults of the service's ``limits``, and small enough for several requests of one
    call to be computed side by side.
    """

    max_texts: int = 512
    max_bytes: int = 4_000_000

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.max_texts < 1 or self.max_bytes < 1:
            raise ValueError(
                f"max_texts and max_bytes must be 1 or more, not {self.max_texts} and {self.max_bytes}"
            )


@dataclass(frozen=True)
class Piece:
    """Neighbouring texts of a call, as JSON; ``start`` is the first one's place in the call."""

    start: int
    texts: tuple[bytes, ...]
    is_whole: bool

    def __str__(self) -> str:
        return f"texts {self.start} to {self.start + len(self.texts) - 1} of the call"

    def body(self, field: str, fields: Mapping[str, Any]) -> bytes:
        """Returns the body of a request with these texts in ``field``; fields that are None stay out."""
        given = {name: value for name, value in fields.items() if value is not None}
        return orjson.dumps({**given, field: [orjson.Fragment(text) for text in self.texts]})


@dataclass(frozen=True)
class Answer:
    """What a server has answered to a request at ``url``."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes

    def __str__(self) -> str:
        """The answer without its content, which may be a page of HTML."""
        kind = self.headers.get("content-type", "no content type").partition(";")[0]
        return f"{self.url} answers {self.status} ({kind})"


def pieces(texts: Sequence[str], name: str, bounds: Bounds) -> list[Piece]:
    """Divides the texts of a call, in order. A text over the bound of bytes is alone.

    ``name`` is the caller's argument. Raises TypeError and ValueError.
    """
    encoded = _as_json(texts, name)
    cuts = list(_cuts([len(text) + 1 for text in encoded], bounds))
    return [Piece(start, tuple(encoded[start:stop]), len(cuts) == 1) for start, stop in cuts]


def _as_json(texts: Sequence[str], name: str) -> list[bytes]:
    if not texts:
        raise ValueError(f"`{name}` is empty; give at least one text")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"`{name}[{place}]` must be a string, not {type(text).__name__}")
    try:
        return [orjson.dumps(text) for text in texts]
    except TypeError as error:  # half of a surrogate pair
        raise ValueError(f"a text of `{name}` is not valid Unicode: {error}") from error


def _cuts(sizes: Sequence[int], bounds: Bounds) -> Iterator[tuple[int, int]]:
    start = total = 0
    for place, size in enumerate(sizes):
        is_full = place - start == bounds.max_texts or total + size > bounds.max_bytes
        if is_full and place > start:
            yield start, place
            start, total = place, 0
        total += size
    yield start, len(sizes)


def embeddings_of(reply: Answer, piece: Piece) -> Embeddings:
    """Returns the answer to a request for vectors. Raises UnexpectedAnswer."""
    try:
        answer = orjson.loads(reply.content)
        items = sorted(answer["data"], key=lambda item: item["index"])
        return Embeddings(
            vectors=_vectors(items, len(piece.texts)),
            model=answer["model"],
            space=answer["space"],
            instruction=answer["instruction"],
            tokens=answer["usage"]["total_tokens"],
            truncated=tuple(piece.start + row for row in answer["truncated"]),
        )
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise _unexpected(reply) from error


def _vectors(items: Sequence[Mapping[str, Any]], count: int) -> Vectors:
    if [item["index"] for item in items] != list(range(count)):
        raise ValueError(f"{len(items)} vectors for {count} texts")
    rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in items]
    return np.stack(rows).astype(np.float32, copy=False)


def ranking_of(reply: Answer, piece: Piece) -> Ranking:
    """Returns the answer to a request for scores, with the documents' places in the call.

    Raises UnexpectedAnswer.
    """
    try:
        answer = orjson.loads(reply.content)
        return Ranking(
            documents=tuple(
                RankedDocument(piece.start + item["index"], item["relevance_score"])
                for item in answer["results"]
            ),
            model=answer["model"],
            method=answer["method"],
            tokens=answer["usage"]["total_tokens"],
            truncated=tuple(piece.start + row for row in answer["truncated"]["documents"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _unexpected(reply) from error


def _unexpected(reply: Answer) -> UnexpectedAnswer:
    return UnexpectedAnswer(f"the server is not embedfleet: {reply}; is `url` that of the service?")


def joined(parts: Sequence[Embeddings]) -> Embeddings:
    """Returns one result of those of a call's pieces, which are of one space."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return Embeddings(
        vectors=np.concatenate([part.vectors for part in parts]),
        model=", ".join(dict.fromkeys(part.model for part in parts)),
        space=first.space,
        instruction=first.instruction,
        tokens=sum(part.tokens for part in parts),
        truncated=tuple(row for part in parts for row in part.truncated),
    )


def merged(parts: Sequence[Ranking], top_n: int | None) -> Ranking:
    """Returns one ranking of those of a call's pieces, which are one model's."""
    documents = [document for part in parts for document in part.documents]
    best = sorted(documents, key=lambda document: (-document.score, document.index))
    return Ranking(
        documents=tuple(best[:top_n]),
        model=parts[0].model,
        method=parts[0].method,
        tokens=sum(part.tokens for part in parts),
        truncated=tuple(row for part in parts for row in part.truncated),
    )


def is_from_service(reply: Answer) -> bool:
    """Whether an error's body has the service's form; a proxy's has not."""
    return bool(_error_fields(reply.content))


def refusal(reply: Answer, piece: Piece) -> EmbedfleetError:
    """Returns the error that an answer other than a success means.

    That is UnexpectedAnswer if the server is not embedfleet. Otherwise it is a ServiceError, which names
    the piece if the call has several.
    """
    if not is_from_service(reply) and not _may_be_of_proxy(reply.status):
        return _unexpected(reply)
    fields = _error_fields(reply.content)
    message = fields.get("message") or f"a proxy answered in place of the service: {reply}"
    where = "" if piece.is_whole else f" ({piece})"
    kind = SpaceMismatch if reply.status == _CONFLICT else ServiceError
    return kind(
        f"{reply.status}: {message}{where}",
        reply.status,
        fields.get("code"),
        fields.get("param"),
        retry_after_s(reply.headers),
    )


def _may_be_of_proxy(status: int) -> bool:
    return status in _OF_PROXIES or status in _SERVER_ERRORS


def _error_fields(content: bytes) -> Mapping[str, str | None]:
    try:
        error = orjson.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}

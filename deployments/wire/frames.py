"""The frames that travel over a connection between a client process and a replica, as bytes.

A frame is a header (length of its body, kind, number of its call) and a body. All integers are
little-endian. Token ids, lengths and vectors are flat buffers; what is rare and small is JSON. Nothing is
pickled, so nothing that arrives can run.

    client → replica     HELLO    protocol version and token; always first
                         CALL     texts as token ids, their prompts if the model needs them, lane,
                                  seconds left, space, trial, tenant and its weight
                         CANCEL   the caller has gone
    replica → client     WELCOME  protocol version; the answer to HELLO
                         STATUS   the replica's state and load: at once, then every second
                         ANSWER   vectors
                         REFUSAL  an error instead, by its code
                         MOVED    the replica serves another version: which one
                         GOAWAY   the replica stops: it answers what it has and takes no more calls

This module reads and writes bytes. It knows no sockets, so its tests need none.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.config.schema import ModelConfig
from deployments.core.batch import AnyVectors, Encoded, Ids, TokenBatch
from deployments.core.errors import EmbedfleetError
from deployments.core.lane import Lane
from deployments.core.models.spec import Role
from deployments.core.sparse import SparseVectors
from deployments.wire.calls import OtherVersion, Terms
from deployments.wire.status import ReplicaState, ReplicaStatus

VERSION = 4
MAX_BODY_BYTES = 64 * 2**20
MAX_HELLO_BYTES = 256
TOKEN_BYTES = 32

_MAGIC = b"embedfleet"
_HEADER = struct.Struct("<IBxxxI")  # bytes of the body, kind, number
_HELLO = struct.Struct(f"<{len(_MAGIC)}sH{TOKEN_BYTES}s")
_WELCOME = struct.Struct("<H")
# lane, whether there are prompts, bytes of trial, tenant and space, texts, seconds left, weight
_CALL = struct.Struct("<B?BBHIdd")
# whether they are sparse, texts, dimension, numbers, tokens waiting in both lanes, seconds
_ANSWER = struct.Struct("<?xxxIIIIIdd")
_LANES = tuple(Lane)
_ID_BYTES = 4
_ROLES = len(Role)


class Kind(IntEnum):
    """What a frame says."""

    HELLO = 1
    WELCOME = 2
    CALL = 3
    CANCEL = 4
    ANSWER = 5
    REFUSAL = 6
    MOVED = 7
    STATUS = 8
    GOAWAY = 9


class BadFrame(Exception):
    """Bytes that are no frame of this protocol; the connection is of no more use."""


@dataclass(frozen=True)
class Frame:
    """One frame as it arrived; ``number`` is that of its call, 0 for frames of no call."""

    kind: Kind
    number: int
    body: bytearray


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.max_body_bytes = max_body_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields the frames that are complete with ``data``. Raises BadFrame.

        The limit is looked at before each frame, so it may be changed between two of them.
        """
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        if len(self._buffer) < _HEADER.size:
            return None
        size, kind, number = _HEADER.unpack_from(self._buffer)
        if size > self.max_body_bytes:
            raise BadFrame(f"a frame of {size} bytes, over the limit of {self.max_body_bytes}")
        end = _HEADER.size + size
        if len(self._buffer) < end:
            return None
        body = self._buffer[_HEADER.size : end]
        del self._buffer[:end]
        return Frame(_kind(kind), number, body)


def _kind(value: int) -> Kind:
    try:
        return Kind(value)
    except ValueError:
        raise BadFrame(f"a frame of unknown kind {value}") from None


def frame(kind: Kind, number: int = 0, *body: bytes) -> bytes:
    """Returns the bytes of a frame, whose body consists of these parts."""
    size = sum(map(len, body))
    return b"".join((_HEADER.pack(size, kind, number), *body))


@dataclass(frozen=True)
class Hello:
    """The first words of a client."""

    version: int
    token: bytes


def hello(token: bytes, version: int = VERSION) -> bytes:
    """Returns the frame that opens a connection. Its layout is the same in every version."""
    return frame(Kind.HELLO, 0, _HELLO.pack(_MAGIC, version, token))


def read_hello(received: Frame) -> Hello:
    """Reads it. Raises BadFrame."""
    if received.kind is not Kind.HELLO or len(received.body) != _HELLO.size:
        raise BadFrame("the first frame must be HELLO")
    magic, version, token = _HELLO.unpack(received.body)
    if magic != _MAGIC:
        raise BadFrame("the peer speaks another protocol")
    return Hello(version, token)


def welcome(version: int = VERSION) -> bytes:
    """Returns the answer to HELLO. Its layout is the same in every version."""
    return frame(Kind.WELCOME, 0, _WELCOME.pack(version))


def read_welcome(received: Frame) -> int:
    """Returns the replica's protocol version. Raises BadFrame."""
    if received.kind is not Kind.WELCOME or len(received.body) != _WELCOME.size:
        raise BadFrame("the answer to HELLO must be WELCOME")
    (version,) = _WELCOME.unpack(received.body)
    return int(version)


@dataclass(frozen=True)
class CallFrame:
    """A call as it arrives; ``timeout_s`` is the time it has left, since clocks differ."""

    batch: TokenBatch
    lane: Lane
    timeout_s: float
    terms: Terms


def call(number: int, sent: CallFrame) -> bytes:
    """Returns the frame of a call."""
    terms, batch, has_prompts = sent.terms, sent.batch, sent.batch.prompts is not None
    names = [name.encode() for name in (terms.trial or "", terms.tenant, terms.space)]
    head = _CALL.pack(
        _LANES.index(sent.lane),
        has_prompts,
        *map(len, names),
        len(batch),
        sent.timeout_s,
        terms.weight,
    )
    arrays = [batch.lengths, *([] if batch.prompts is None else [batch.prompts]), batch.ids]
    return frame(Kind.CALL, number, head, *(_buffer(a, "<i4") for a in arrays), *names)


def read_call(body: bytearray) -> CallFrame:
    """Reads a call; its arrays are views of ``body``. Raises BadFrame."""
    try:
        lane, has_prompts, *sizes, texts, timeout_s, weight = _CALL.unpack_from(body)
        prompts_at = _CALL.size + _ID_BYTES * texts
        ids_at = prompts_at + (2 * _ID_BYTES * texts if has_prompts else 0)
        names_at = len(body) - sum(sizes)
        lengths = np.frombuffer(body, "<i4", texts, _CALL.size)
        prompts = _prompts(body, texts, prompts_at) if has_prompts else None
        ids = np.frombuffer(body[ids_at:names_at], "<i4")
        trial, tenant, space = _names(body, names_at, sizes)
        terms = Terms(space, trial or None, tenant, weight)
        received = CallFrame(TokenBatch(ids, lengths, prompts), _LANES[lane], timeout_s, terms)
    except (struct.error, ValueError, IndexError) as error:
        raise BadFrame(f"a call that cannot be read: {error}") from None
    if (texts and lengths.min() < 1) or int(lengths.sum(dtype=np.int64)) != len(ids):
        raise BadFrame("a call whose lengths do not add up to its token ids")
    if prompts is not None and not _are_prompts(prompts, lengths):
        raise BadFrame("a call with a prompt of no role, or longer than its text")
    if not 0 < weight < math.inf:
        raise BadFrame(f"a call of weight {weight}")
    return received


def _names(body: bytearray, at: int, sizes: Sequence[int]) -> Iterator[str]:
    for size in sizes:
        yield body[at : at + size].decode()
        at += size


def _prompts(body: bytearray, texts: int, at: int) -> Ids:
    prompts: Ids = np.frombuffer(body, "<i4", 2 * texts, at).reshape(texts, 2)
    return prompts


def _are_prompts(prompts: Ids, lengths: Ids) -> bool:
    roles, counts = prompts.T
    in_range = (roles >= 0) & (roles < _ROLES) & (counts >= 0) & (counts <= lengths)
    return bool(in_range.all())


def answer(number: int, encoded: Encoded, waiting: Mapping[Lane, int]) -> bytes:
    """Returns the frame of an answer; ``waiting`` are the tokens in the replica's lanes by now.

    Sparse vectors are their lengths, indices and values; of these two there are ``numbers`` each.
    """
    vectors, is_sparse = encoded.vectors, isinstance(encoded.vectors, SparseVectors)
    arrays = _arrays(vectors)
    numbers, seconds = arrays[-1].size, (encoded.queued_s, encoded.computed_s)
    head = _ANSWER.pack(is_sparse, *vectors.shape, numbers, *_tokens(waiting), *seconds)
    errors = {str(row): _error(error) for row, error in encoded.errors.items()}
    rest = json.dumps(errors).encode() if errors else b""
    return frame(Kind.ANSWER, number, head, *(a.tobytes() for a in arrays), rest)


def _arrays(vectors: AnyVectors) -> list[npt.NDArray[Any]]:
    """Returns what is sent of the vectors, the numbers last."""
    if not isinstance(vectors, SparseVectors):
        return [vectors.astype("<f4", copy=False)]
    return [
        vectors.lengths.astype("<i4", copy=False),
        vectors.indices.astype("<u4", copy=False),
        vectors.values.astype("<f4", copy=False),
    ]


def read_answer(body: bytearray) -> tuple[Encoded, dict[Lane, int]]:
    """Reads an answer and the tokens that wait; the vectors are a view of ``body``. Raises BadFrame."""
    try:
        head = _ANSWER.unpack_from(body)
        is_sparse, texts, dimension, numbers, *waiting, queued_s, computed_s = head
        read = _sparse if is_sparse else _dense
        vectors, rest_at = read(body, texts, dimension, numbers)
        rest = json.loads(body[rest_at:]) if len(body) > rest_at else {}
        errors = {int(row): read_error(fields) for row, fields in rest.items()}
        encoded = Encoded(vectors, queued_s, computed_s, errors)
    except (struct.error, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise BadFrame(f"an answer that cannot be read: {error}") from None
    return encoded, dict(zip(_LANES, waiting, strict=True))


def _dense(body: bytearray, texts: int, dimension: int, numbers: int) -> tuple[AnyVectors, int]:
    """Returns vectors, and where they end. Raises ValueError."""
    flat = np.frombuffer(body, "<f4", numbers, _ANSWER.size)
    return flat.reshape(texts, dimension), _ANSWER.size + 4 * numbers


def _sparse(body: bytearray, texts: int, dimension: int, numbers: int) -> tuple[AnyVectors, int]:
    """Returns sparse vectors, and where they end. Raises ValueError."""
    indices_at = _ANSWER.size + 4 * texts
    values_at = indices_at + 4 * numbers
    lengths = np.frombuffer(body, "<i4", texts, _ANSWER.size)
    indices = np.frombuffer(body, "<u4", numbers, indices_at)
    values = np.frombuffer(body, "<f4", numbers, values_at)
    if (texts and lengths.min() < 0) or int(lengths.sum(dtype=np.int64)) != numbers:
        raise ValueError("its lengths do not add up to its values")
    if numbers and int(indices.max()) >= dimension:
        raise ValueError(f"it has an entry beyond {dimension} dimensions")
    return SparseVectors(indices, values, lengths, dimension), values_at + 4 * numbers


def refusal(number: int, error: EmbedfleetError) -> bytes:
    """Returns the frame of an error of the whole call."""
    return frame(Kind.REFUSAL, number, json.dumps(_error(error)).encode())


def read_refusal(body: bytearray) -> EmbedfleetError:
    """Reads it. Raises BadFrame."""
    return read_error(_json(body))


def moved(number: int, other: OtherVersion) -> bytes:
    """Returns the frame that names the version which the replica serves."""
    fields = {"space": other.space, "config": other.config.model_dump(mode="json")}
    return frame(Kind.MOVED, number, json.dumps(fields).encode())


def read_moved(body: bytearray) -> OtherVersion:
    """Reads it. Raises BadFrame."""
    try:
        fields = _json(body)
        return OtherVersion(ModelConfig.model_validate(fields["config"]), str(fields["space"]))
    except (KeyError, TypeError, ValueError) as error:  # pydantic's errors are ValueErrors
        raise BadFrame(f"a version that cannot be read: {error}") from None


def status(said: ReplicaStatus) -> bytes:
    """Returns the frame of a status."""
    return frame(Kind.STATUS, 0, json.dumps(asdict(said)).encode())


def read_status(body: bytearray) -> ReplicaStatus:
    """Reads it. Raises BadFrame."""
    try:
        fields = _json(body)
        fields["state"] = ReplicaState(fields["state"])
        fields["waiting"] = {Lane(lane): int(n) for lane, n in fields["waiting"].items()}
        fields["gpu_ids"] = tuple(fields["gpu_ids"])
        fields["memory_mib"] = fields["memory_mib"] and tuple(fields["memory_mib"])
        return ReplicaStatus(**fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFrame(f"a status that cannot be read: {error}") from None


def _error(error: EmbedfleetError) -> list[object]:
    return [error.code, error.message, error.param, error.retry_after_s]


def read_error(fields: Any) -> EmbedfleetError:
    """Returns an error from its code, message, param and seconds to wait. Raises BadFrame."""
    try:
        code, message, param, retry_after_s = fields
        kind = _BY_CODE.get(code, EmbedfleetError)
        return kind(str(message), param, retry_after_s)
    except (TypeError, ValueError) as error:
        raise BadFrame(f"an error that cannot be read: {error}") from None


def _by_code(kind: type[EmbedfleetError]) -> dict[str, type[EmbedfleetError]]:
    below = [_by_code(child) for child in kind.__subclasses__()]
    return {code: found for codes in below for code, found in codes.items()} | {kind.code: kind}


_BY_CODE = _by_code(EmbedfleetError)


def _json(body: bytearray) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise BadFrame(f"a body that is not JSON: {error}") from None


def _buffer(array: npt.NDArray[Any], dtype: str) -> bytes:
    return array.astype(dtype, copy=False).tobytes()


def _tokens(waiting: Mapping[Lane, int]) -> list[int]:
    return [min(waiting.get(lane, 0), 2**32 - 1) for lane in _LANES]

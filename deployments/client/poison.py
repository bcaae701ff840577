"""Finds and refuses the texts that kill replicas.

Three places take part: the client (this module), which sends the texts; the trial passes in a
replica (core/batching/pass_scheduler.py); and the record in Ray's key-value store (wire/trials.py),
which client and replica share.

1. A replica dies during a call. Any of the call's texts may be the cause, so this client remembers
   all of them as suspects, by a fingerprint of their token ids. It looks into the record, and
   blocks at once those that another client has blocked within the last hour.
2. The client sends the other suspects again under a trial's name. The replica gives each a forward
   pass of its own, and writes into the record which row it is about to run.
3. If the trial is answered, its texts are suspects no longer.
4. If that replica dies too, the record says which row it had begun. The client blocks that text and
   adds it to the record for the other clients. The rest of the suspects go through a new trial. If
   no row had been begun, nothing is proved, and all are tried again.
5. A blocked text gets the error `KillsReplicas` and reaches no replica; the other texts of its call
   are answered. Suspicions and blocks end after an hour.

So a text can kill two replicas for each client that meets it before it is on record: one in a
shared pass, one on trial. This module knows nothing of Ray. `Suspects` has its clock passed in.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from deployments.core.batch import Encoded, TokenBatch, Vectors
from deployments.core.errors import EmbedfleetError, KillsReplicas
from deployments.core.lane import Lane
from deployments.wire.trials import Record

log = logging.getLogger("ray.serve")

# the last one names the trial, or is None: the texts then share their forward passes
Send = Callable[[TokenBatch, Lane, float, str | None], Awaitable[Encoded]]


class ReplicaDied(Exception):
    """The process that a call was sent to has died, or cannot be reached any more."""


@dataclass
class _Answer:
    """An answer as it comes in by parts."""

    vectors: Vectors
    queued_s: float = 0.0
    computed_s: float = 0.0
    errors: dict[int, EmbedfleetError] = field(default_factory=dict)

    def take(self, rows: Sequence[int], part: Encoded) -> None:
        self.vectors[rows] = part.vectors
        self.errors |= {rows[row]: error for row, error in part.errors.items()}
        self.queued_s = max(self.queued_s, part.queued_s)
        self.computed_s += part.computed_s

    def finished(self) -> Encoded:
        return Encoded(self.vectors, self.queued_s, self.computed_s, self.errors)


@dataclass(frozen=True)
class _Call:
    """A call whose texts are told apart."""

    send: Send
    batch: TokenBatch
    texts: list[str]
    lane: Lane
    deadline: float


class Isolation:
    """Sends the calls of one model. For one asyncio loop."""

    def __init__(self, suspects: Suspects, record: Record) -> None:
        self._suspects = suspects
        self._record = record

    async def call(
        self, send: Send, dimension: int, batch: TokenBatch, lane: Lane, deadline: float
    ) -> Encoded:
        """Returns the answer to a call, in which a text that kills replicas has an error of its own.

        Errors of the whole call as ``send``, which raises ReplicaDied for a death.
        """
        if self._suspects.is_empty(time.monotonic()):
            try:
                return await send(batch, lane, deadline, None)
            except ReplicaDied as death:
                log.warning("%s; its %d texts are tried one by one", death, len(batch))
                await self._suspect(_fingerprints(batch))
        answer = _Answer(np.zeros((len(batch), dimension), np.float32))
        await self._by_suspicion(_Call(send, batch, _fingerprints(batch), lane, deadline), answer)
        return answer.finished()

    async def _by_suspicion(self, call: _Call, answer: _Answer) -> None:
        left = set(range(len(call.batch)))
        while left:
            rows = {suspicion: self._rows(call, left, suspicion) for suspicion in Suspicion}
            answer.errors |= dict.fromkeys(rows.pop(Suspicion.BLOCKED), _refusal())
            left -= set(answer.errors)
            for suspicion, some in rows.items():
                if some and (part := await self._part(call, some, suspicion)) is not None:
                    answer.take(some, part)
                    left -= set(some)

    async def _part(self, call: _Call, rows: list[int], suspicion: Suspicion) -> Encoded | None:
        """Returns the answer of some rows, or None where a death has changed their suspicion."""
        trial = uuid.uuid4().hex if suspicion is Suspicion.SUSPECTED else None
        texts = [call.texts[row] for row in rows]
        try:
            found = await call.send(call.batch.select(rows), call.lane, call.deadline, trial)
        except ReplicaDied as death:
            log.warning("%s; %d texts were with it", death, len(rows))
            await (self._block(trial, texts) if trial else self._suspect(texts))
            return None
        if trial:
            self._suspects.clear(texts)
        return found

    async def _suspect(self, texts: Sequence[str]) -> None:
        now = time.monotonic()
        self._suspects.suspect(texts, now)
        for text in await self._record.blocked(texts):
            self._suspects.block(text, now)

    async def _block(self, trial: str, texts: Sequence[str]) -> None:
        row = await self._record.last_begun(trial)
        if row is None:  # the replica died before it came to any of them
            return
        log.error("text %s has killed a replica on trial and is refused", texts[row])
        self._suspects.block(texts[row], time.monotonic())
        await self._record.block(trial, texts[row])

    def _rows(self, call: _Call, left: set[int], suspicion: Suspicion) -> list[int]:
        now = time.monotonic()
        suspicions = {row: self._suspects.suspicion(call.texts[row], now) for row in left}
        return [row for row in sorted(left) if suspicions[row] is suspicion]


def _refusal() -> EmbedfleetError:
    return KillsReplicas(
        "a text is refused: two replicas of the model have died on it; the log has its fingerprint",
        "input",
    )


def _fingerprints(batch: TokenBatch) -> list[str]:
    return [fingerprint(batch, row) for row in range(len(batch))]


class Suspicion(StrEnum):
    """What is held against a text."""

    NONE = "none"
    SUSPECTED = "suspected"
    BLOCKED = "blocked"


def fingerprint(batch: TokenBatch, row: int) -> str:
    """Returns a hash of one text's token ids (32 hex digits)."""
    return hashlib.blake2b(batch.text(row).tobytes(), digest_size=16).hexdigest()


class Suspects:
    """Remembers texts by their fingerprints: at most ``most`` of them, ``keep_s`` seconds each."""

    def __init__(self, keep_s: float = 3_600.0, most: int = 10_000) -> None:
        self._keep_s = keep_s
        self._most = most
        self._known: OrderedDict[str, tuple[Suspicion, float]] = OrderedDict()

    def is_empty(self, now: float) -> bool:
        """Whether nothing is held against any text now."""
        self._forget_old(now)
        return not self._known

    def suspect(self, texts: Iterable[str], now: float) -> None:
        """These were with a replica that died."""
        for text in texts:
            if self.suspicion(text, now) is not Suspicion.BLOCKED:
                self._note(text, Suspicion.SUSPECTED, now)

    def block(self, text: str, now: float) -> None:
        """This one was alone in the forward pass when a replica died."""
        self._note(text, Suspicion.BLOCKED, now)

    def clear(self, texts: Iterable[str]) -> None:
        """These have been through a forward pass of their own, or were refused for another reason."""
        for text in texts:
            self._known.pop(text, None)

    def suspicion(self, text: str, now: float) -> Suspicion:
        """Returns what is held against a text now."""
        self._forget_old(now)
        suspicion, _ = self._known.get(text, (Suspicion.NONE, now))
        return suspicion

    def _forget_old(self, now: float) -> None:
        while self._known:  # the oldest stands first
            text, (_, since) = next(iter(self._known.items()))
            if now - since <= self._keep_s:
                return
            del self._known[text]

    def _note(self, text: str, suspicion: Suspicion, now: float) -> None:
        self._known[text] = (suspicion, now)
        self._known.move_to_end(text)
        while len(self._known) > self._most:
            self._known.popitem(last=False)

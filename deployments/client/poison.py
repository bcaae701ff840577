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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from deployments.client.call import Call, ReplicaDied, Sender
from deployments.core.batch import AnyVectors, Encoded, TokenBatch, placed
from deployments.core.errors import EmbedfleetError, KillsReplicas
from deployments.wire.trials import Record

log = logging.getLogger("ray.serve")


@dataclass
class _Answer:
    """An answer as it comes in by parts: rows and their vectors."""

    texts: int
    parts: list[tuple[Sequence[int], AnyVectors]] = field(default_factory=list)
    queued_s: float = 0.0
    computed_s: float = 0.0
    errors: dict[int, EmbedfleetError] = field(default_factory=dict)

    def take(self, rows: Sequence[int], part: Encoded) -> None:
        self.parts.append((rows, part.vectors))
        self.errors |= {rows[row]: error for row, error in part.errors.items()}
        self.queued_s = max(self.queued_s, part.queued_s)
        self.computed_s += part.computed_s

    def finished(self) -> Encoded:
        vectors = placed(self.parts, self.texts)
        return Encoded(vectors, self.queued_s, self.computed_s, self.errors)


class PoisonIsolation:
    """The layer that keeps texts which kill replicas from killing more. For one asyncio loop."""

    def __init__(self, inner: Sender, record: Record, suspects: Suspects | None = None) -> None:
        self._inner = inner
        self._record = record
        self._suspects = suspects or Suspects()

    async def send(self, call: Call) -> Encoded:
        """As `Sender.send`, but sends calls again that a dead replica has lost.

        A text that kills replicas has `KillsReplicas` in place of its vector. If all texts of a call
        are refused, the vectors' shape is ``(texts, 0)``.
        """
        if self._suspects.is_empty(time.monotonic()):
            try:
                return await self._inner.send(call)
            except ReplicaDied as death:
                log.warning("%s; its %d texts are tried one by one", death, len(call.batch))
                await self._suspect(_fingerprints(call.batch))
        return await self._by_suspicion(call, _fingerprints(call.batch))

    async def _by_suspicion(self, call: Call, texts: Sequence[str]) -> Encoded:
        """Sends suspects on trial and the other texts as usual; ``texts`` are all fingerprints."""
        answer = _Answer(len(texts))
        left = set(range(len(texts)))
        while left:
            rows = {suspicion: self._rows(texts, left, suspicion) for suspicion in Suspicion}
            answer.errors |= dict.fromkeys(rows.pop(Suspicion.BLOCKED), _refusal())
            left -= set(answer.errors)
            for suspicion, some in rows.items():
                if not some:
                    continue
                part = _part(call, some, suspicion)
                if (reply := await self._reply(part, [texts[row] for row in some])) is not None:
                    answer.take(some, reply)
                    left -= set(some)
        return answer.finished()

    async def _reply(self, call: Call, texts: Sequence[str]) -> Encoded | None:
        """Returns the answer of a part; None if a death has changed what its texts are suspected of."""
        try:
            encoded = await self._inner.send(call)
        except ReplicaDied as death:
            log.warning("%s; %d texts were with it", death, len(texts))
            await (self._block(call.trial, texts) if call.trial else self._suspect(texts))
            return None
        if call.trial:
            self._suspects.clear(texts)
        return encoded

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

    def _rows(self, texts: Sequence[str], left: set[int], suspicion: Suspicion) -> list[int]:
        now = time.monotonic()
        suspicions = {row: self._suspects.suspicion(texts[row], now) for row in left}
        return [row for row in sorted(left) if suspicions[row] is suspicion]


def _part(call: Call, rows: Sequence[int], suspicion: Suspicion) -> Call:
    """Returns a call of these texts only, which is a trial if they are suspected."""
    trial = uuid.uuid4().hex if suspicion is Suspicion.SUSPECTED else None
    return replace(call, batch=call.batch.select(rows), trial=trial)


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
    """Returns a hash of one text's token ids, and its prompt if it has one (32 hex digits)."""
    prompt = b"" if batch.prompts is None else batch.prompts[row].tobytes()
    return hashlib.blake2b(batch.text(row).tobytes(), digest_size=16, salt=prompt).hexdigest()


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

"""The configured spaces, and whether their members really share one: their vectors are compared here.

Every member encodes the same sample texts. If the vectors of two members differ too much, requests for
the space are refused with the numbers; until the members have been compared, they are refused too.
Other requests are not affected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from deployments.config.schema import Routing, Space
from deployments.core.errors import EmbedfleetError
from deployments.core.models.spec import Role
from deployments.core.request import Embeddings, EncodeRequest
from deployments.core.routing.facts import ModelState, SharedSpace
from deployments.core.routing.space_matching import AGREEMENT_TEXTS, agreement, shared_id
from deployments.wire.status import ModelStatus

log = logging.getLogger("ray.serve")
_EVERY_S = 1.0

Encode = Callable[[str, EncodeRequest], Awaitable[Embeddings]]
Status = Callable[[str], ModelStatus]


@dataclass(frozen=True)
class Verdict:
    """What is known of a space. ``problem`` is None once its members were found to agree.

    ``id`` is the shared space's, empty before the comparison. ``members`` maps each member to the id
    of its own space at the time of the comparison.
    """

    id: str
    problem: str | None
    worst_cosine: float | None = None
    members: Mapping[str, str] = field(default_factory=dict)


class SharedSpaces:
    """A verdict on each configured space, reached in the background as its members become ready."""

    def __init__(self, encode: Encode, status: Status) -> None:
        """``encode`` returns one model's vectors, ``status`` its state; both take the model's name."""
        self._encode = encode
        self._status = status
        self._spaces: tuple[Space, ...] = ()
        self._verdicts: dict[Space, Verdict] = {}
        self._task: asyncio.Task[None] | None = None

    def configure(self, routing: Routing) -> None:
        """Applies another configuration; spaces that did not change keep their verdict."""
        self._spaces = routing.spaces
        self._verdicts = {s: v for s, v in self._verdicts.items() if s in routing.spaces}

    def start(self) -> None:
        """Starts to compare. Call it in the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def verdicts(self) -> dict[Space, Verdict]:
        """Returns what is known of each configured space."""
        return {space: self._verdict(space) for space in self._spaces}

    def of(self, model: str) -> SharedSpace | None:
        """Returns the space that a model is a configured member of, if any."""
        for space in self._spaces:
            for member in space.members:
                if member.model == model:
                    verdict = self._verdict(space)
                    roles = frozenset(member.roles)
                    return SharedSpace(space.name, verdict.id, roles, verdict.problem)
        return None

    def is_current(self, shared_id: str, model: str, own_id: str) -> bool:
        """Whether a member's own space is the one that was compared for the shared one.

        If the member has been replaced, its space loses its verdict until it is compared again.
        """
        for space, verdict in self._verdicts.items():
            if verdict.members.get(model, own_id) != own_id:
                self._verdicts[space] = _not_compared(f"{model} was replaced")
        return any(v.id == shared_id and model in v.members for v in self._verdicts.values())

    async def compare(self) -> None:
        """Compares the members of each space that has no verdict yet and whose members are ready."""
        for space in self._spaces:
            if not self._verdict(space).id:
                self._verdicts[space] = await self._judge(space)

    async def _watch(self) -> None:
        while True:
            try:
                await self.compare()
            except Exception:
                log.exception("the members of the spaces could not be compared; trying again")
            await asyncio.sleep(_EVERY_S)

    def _verdict(self, space: Space) -> Verdict:
        return self._verdicts.get(space) or _not_compared("the comparison has not started")

    async def _judge(self, space: Space) -> Verdict:
        for member in space.members:
            state = self._status(member.model).state
            if state is not ModelState.READY:
                return _not_compared(f"{member.model} is {state}")
        try:
            verdict = await self._compare_members(space)
        except EmbedfleetError as error:
            return _not_compared(error.message)
        _log(space, verdict)
        return verdict

    async def _compare_members(self, space: Space) -> Verdict:
        own_ids: dict[str, str] = {}
        worst = 1.0
        for role in {role for member in space.members for role in member.roles}:
            embeddings = [
                await self._encode(
                    member.model, EncodeRequest(AGREEMENT_TEXTS, role, truncate=True)
                )
                for member in space.members
            ]
            own_ids |= {e.model: e.space for e in embeddings}
            identity = shared_id(own_ids.values())
            dimensions = {e.model: e.vectors.shape[1] for e in embeddings}
            if len(set(dimensions.values())) > 1:
                return Verdict(identity, f"its members' dimensions are {dimensions}")
            least, mean = agreement([e.vectors for e in embeddings])
            worst = min(worst, least)
            if least < space.floor:
                return Verdict(identity, _disagreement(space, role, least, mean), worst)
        return Verdict(shared_id(own_ids.values()), None, worst, own_ids)


def _disagreement(space: Space, role: Role, least: float, mean: float) -> str:
    return (
        f"its members disagree: between the {role} vectors of one text the cosine is {least:.4f} at "
        f"worst and {mean:.4f} on average over {len(AGREEMENT_TEXTS)} texts; the floor is {space.floor:g}"
    )


def _log(space: Space, verdict: Verdict) -> None:
    if verdict.problem:
        log.error("space %s is refused: %s", space.name, verdict.problem)
    else:
        log.info(
            "space %s: members agree, worst cosine %.4f", space.name, verdict.worst_cosine or 0
        )


def _not_compared(why: str) -> Verdict:
    return Verdict("", f"its members have not been compared yet ({why})")

"""Whether the models of a configured space really share one: their vectors are compared here.

Each member encodes the same sample texts. A space whose members disagree is refused with the
numbers, and so is one whose members have not been compared yet; the rest of the service goes on.
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
from deployments.core.routing.facts import ModelState, Shared
from deployments.core.routing.spaces import SAMPLES, agreement, shared_id
from deployments.wire.status import ModelStatus

log = logging.getLogger("ray.serve")
_EVERY_S = 1.0

Encode = Callable[[str, EncodeRequest], Awaitable[Embeddings]]
Status = Callable[[str], ModelStatus]


@dataclass(frozen=True)
class Verdict:
    """What is known of a space: ``problem`` is None once its members have been found to agree.

    ``members`` are their own spaces as they were then, by name.
    """

    id: str
    problem: str | None
    worst: float | None = None
    members: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Agreement:
    """The verdict on each configured space, reached in the background as members become ready."""

    encode: Encode
    status: Status
    _spaces: tuple[Space, ...] = ()
    _verdicts: dict[Space, Verdict] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    def configure(self, routing: Routing) -> None:
        """Takes over another configuration; spaces that did not change keep their verdict."""
        self._spaces = routing.spaces
        self._verdicts = {s: v for s, v in self._verdicts.items() if s in routing.spaces}

    def start(self) -> None:
        """Begins to compare; call it in the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def verdicts(self) -> dict[Space, Verdict]:
        """Returns what is known of each configured space."""
        return {
            space: self._verdicts.get(space, _unknown("not looked at")) for space in self._spaces
        }

    def shared(self, model: str) -> Shared | None:
        """Returns the space of which a model is a configured member."""
        for space in self._spaces:
            for member in space.members:
                if member.model == model:
                    verdict = self._verdicts.get(space) or _unknown("not looked at")
                    roles = frozenset(member.roles)
                    return Shared(space.name, verdict.id, roles, verdict.problem)
        return None

    def holds(self, shared: str, model: str, own: str) -> bool:
        """Whether this member's own space is the one that was compared for the shared one.

        Where the member has been replaced, its space has no verdict any more until the members have
        been compared again.
        """
        for space, verdict in self._verdicts.items():
            if verdict.members.get(model, own) != own:
                self._verdicts[space] = _unknown(f"{model} was replaced")
        return any(v.id == shared and model in v.members for v in self._verdicts.values())

    async def look(self) -> None:
        """Compares the members of each space that has no verdict yet and whose members are ready."""
        for space in self._spaces:
            known = self._verdicts.get(space)
            if known is None or not known.id:
                self._verdicts[space] = await self._judge(space)

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("the members of the spaces could not be compared; trying again")
            await asyncio.sleep(_EVERY_S)

    async def _judge(self, space: Space) -> Verdict:
        for member in space.members:
            status = self.status(member.model)
            if status.state is not ModelState.READY:
                return _unknown(f"{member.model} is {status.state}")
        try:
            return await self._compare(space)
        except EmbedfleetError as error:
            return _unknown(error.message)

    async def _compare(self, space: Space) -> Verdict:
        spaces: dict[str, str] = {}
        worst = 1.0
        for role in {role for member in space.members for role in member.roles}:
            answers = [
                await self.encode(member.model, EncodeRequest(SAMPLES, role, truncate=True))
                for member in space.members
            ]
            spaces |= {found.model: found.space for found in answers}
            identity = shared_id(spaces.values())
            widths = {found.model: found.vectors.shape[1] for found in answers}
            if len(set(widths.values())) > 1:
                return _reported(space, Verdict(identity, f"its members' dimensions are {widths}"))
            least, mean = agreement([found.vectors for found in answers])
            worst = min(worst, least)
            if least < space.floor:
                return _reported(
                    space, Verdict(identity, _disagree(space, role, least, mean), worst)
                )
        return _reported(space, Verdict(shared_id(spaces.values()), None, worst, spaces))


def _disagree(space: Space, role: Role, least: float, mean: float) -> str:
    return (
        f"its members disagree: cosine of one {role} between members is {least:.4f} at worst and "
        f"{mean:.4f} on average over {len(SAMPLES)} texts, the floor is {space.floor:g}"
    )


def _reported(space: Space, verdict: Verdict) -> Verdict:
    if verdict.problem:
        log.error("space %s is refused: %s", space.name, verdict.problem)
    else:
        log.info("space %s: members agree, worst cosine %.4f", space.name, verdict.worst or 0.0)
    return verdict


def _unknown(why: str) -> Verdict:
    return Verdict("", f"its members have not been compared yet ({why})")

"""Which model answers a request. Pure: facts in, decision out.

A request's ``model`` is a name or Hugging Face id, either of them with ``-query`` or ``-document``
behind it, or a size. (``auto`` and named spaces are further branches of `choose`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.embedding.errors import InvalidRequest, UnknownModel
from deployments.embedding.model import Role, Size


@dataclass(frozen=True)
class Candidate:
    """A configured model as the choice sees it."""

    name: str
    repo: str
    size: Size | None = None


@dataclass(frozen=True)
class Decision:
    """The model that answers, why, and the role that the name asked for, if any."""

    model: str
    reason: str
    role: Role | None = None


def choose(requested: str, candidates: Sequence[Candidate]) -> Decision:
    """Returns the one model that ``requested`` means.

    Raises UnknownModel, listing what is known, when there is none.
    """
    for name, role in _readings(requested):
        for candidate in candidates:
            if name in (candidate.name, candidate.repo):
                return Decision(candidate.name, "name", role)
        sized = [c for c in candidates if c.size is not None and c.size == name]
        if sized:  # the config's order breaks ties
            return Decision(sized[0].name, "size", role)
    raise UnknownModel(f"no model {requested!r} here; known: {_known(candidates)}", "model")


def agree(from_name: Role | None, from_field: Role | None) -> Role | None:
    """Returns the role of name and ``input_type`` together.

    Raises InvalidRequest when they contradict each other.
    """
    if from_name and from_field and from_name is not from_field:
        raise InvalidRequest(
            f'`model` ends in "-{from_name}", but `input_type` is "{from_field}"; drop one',
            "input_type",
        )
    return from_name or from_field


def _readings(requested: str) -> list[tuple[str, Role | None]]:
    """The whole name first: a model may really be called something-query."""
    readings: list[tuple[str, Role | None]] = [(requested, None)]
    for role in Role:
        if requested.endswith(f"-{role}"):
            readings.append((requested.removesuffix(f"-{role}"), role))
    return readings


def _known(candidates: Sequence[Candidate]) -> str:
    names = [candidate.name for candidate in candidates]
    sizes = [size for size in Size if any(c.size is size for c in candidates)]
    return ", ".join([*names, *sizes])

"""Which space a model's vectors are in: its own, and the one that it shares with other models.

Texts that models of one space are compared on: short and long, plain and odd, written for this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from deployments.core.batch import Vectors
from deployments.core.routing.facts import Candidate, RequestFacts
from deployments.core.vectors import normalized


def shared_id(members: Iterable[str]) -> str:
    """Returns the identity of a space that several models share, from their own spaces' ids."""
    return hashlib.sha256("\n".join(sorted(members)).encode()).hexdigest()[:12]


def spaces_of(facts: RequestFacts, candidate: Candidate) -> list[str]:
    """Returns every name that this model's answer to this request may go by."""
    shared = candidate.shared_space(facts.dimensions)
    names = [candidate.own_space(facts.dimensions), shared]
    if shared and candidate.shared:
        names.append(candidate.shared.name)
    return [name for name in names if name]


def answers_in_space(facts: RequestFacts, candidate: Candidate) -> bool:
    """Whether this model answers in the space that the request requires, if it requires one."""
    return facts.space is None or facts.space in spaces_of(facts, candidate)


def reported_space(facts: RequestFacts, candidate: Candidate) -> str | None:
    """Returns the shared space that an answer stands in, or None where it is the model's own."""
    if facts.space is not None and facts.space == candidate.own_space(facts.dimensions):
        return None
    return candidate.shared_space(facts.dimensions)


def agreement(vectors: Sequence[Vectors]) -> tuple[float, float]:
    """Returns the least and the mean cosine of the same text between any two members.

    Each of ``vectors`` is float32 ``(texts, dimension)`` of one member, of one and the same shape.
    """
    units = [normalized(member) for member in vectors]
    cosines = [
        (units[i] * units[j]).sum(axis=1)
        for i in range(len(units))
        for j in range(i + 1, len(units))
    ]
    found = np.concatenate(cosines)
    return float(found.min()), float(found.mean())


AGREEMENT_TEXTS = (
    "hello",
    "capital of France",
    "How do plants turn light into sugar?",
    "The invoice for order 20-1187 is due on 3 March; please pay it to the account below.",
    "def add(a, b):\n    return a + b",
    "A red bicycle leans against the wall of the bakery.",
    "Shares fell by 4.2% after the central bank raised its rate for the third time this year.",
    "Take two tablets of 200 mg with water every eight hours, and never more than six a day.",
    "TypeError: 'NoneType' object is not subscriptable",
    "Penguins live in the southern half of the world and cannot fly, but they swim very well, catch "
    "fish and krill under water, and raise their young in colonies of many thousands of birds.",
    "is it legal to record a phone call without telling the other person",
    "https://example.org/docs/install.html#windows",
)

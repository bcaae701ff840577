"""Models and loads for the tests of the routing policy."""

from __future__ import annotations

from dataclasses import replace

from deployments.core.lane import Lane
from deployments.core.models.spec import ModelSpec, Pooling, Prompts, Role, Size
from deployments.core.routing.facts import Candidate, Load, ModelState, SharedSpace

QUERY, DOCUMENT = frozenset({Role.QUERY}), frozenset({Role.DOCUMENT})
INSTRUCT = Prompts(query_instruction="Instruct: {instruction}\nQuery: ")
SHARED = "5ba4ed5ba4ed"


def model(name: str, size: Size | None, languages: str = "en", **facts) -> Candidate:
    values = {"dimension": 8, "max_tokens": 512, "licence": "mit", **facts}
    spec = ModelSpec(name, f"acme/{name}", f"{name}-1", "bert", Pooling.MEAN, **values)
    return Candidate(name, spec.repo, size, spec, tuple(languages.split()))


def member(candidate: Candidate, roles=frozenset(Role), problem: str | None = None) -> Candidate:
    return replace(candidate, shared=SharedSpace("leaf", "" if problem else SHARED, roles, problem))


SMALL = model("small-en", Size.SMALL)
MANY = model("many", Size.MEDIUM, "en de ko zh nb", prompts=INSTRUCT, dimension=16)
LONG = model("long", Size.LARGE, max_tokens=4096, prompts=INSTRUCT, licence="cc-by-nc-4.0")
NESTED = model("nested", Size.MEDIUM, truncatable_dimensions=(4,))
OWN = model("own", None, languages="")
ALL = (SMALL, MANY, LONG, NESTED, OWN)
LEAF = member(model("leaf-query", Size.SMALL), QUERY)
TEACHER = member(model("leaf-teacher", Size.MEDIUM))
TWINS = (LEAF, TEACHER, LONG)

BUSY = Load(waiting={Lane.ONLINE: 10_000}, tokens_per_s=1_000.0)
BUSIER = Load(waiting={Lane.ONLINE: 50_000}, tokens_per_s=1_000.0)
OFFLINE_BUSY = Load(waiting={Lane.OFFLINE: 10_000}, tokens_per_s=1_000.0)
IDLE = Load(tokens_per_s=1_000.0)
QUICK = Load(tokens_per_s=9_000.0)
WIDE = Load(tokens_per_s=4_000.0, streams=8)
COLD = Load(ModelState.COLD, start_s=20.0)
SOON = Load(ModelState.STARTING, start_s=1.0)
BROKEN = Load(ModelState.UNAVAILABLE, "the file is damaged")


def long_text(count: int) -> dict[str, int]:
    return {c.name: count for c in (*ALL, *TWINS)}

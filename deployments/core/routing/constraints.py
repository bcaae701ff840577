"""What a model must satisfy to answer: each rule says why it passes a model over, or None."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.core.lane import Lane
from deployments.core.models.spec import Role
from deployments.core.routing.facts import Candidate, Load, ModelState, RequestFacts, RoutingInputs
from deployments.core.routing.languages import normalized
from deployments.core.routing.space_matching import answers_in_space, reported_space

NON_COMMERCIAL = "non-commercial"


def problems(inputs: RoutingInputs, roles: frozenset[Role]) -> dict[str, str]:
    """Returns, by model, why it must not answer in these roles; who is not in it may.

    Two rules yield where they would leave no model: with ``truncate`` a text that is too long for
    every model is cut, and a model that starts too slowly tells its caller so. Only models of the
    preferred kind are left, if one of them can honour the request, even if it cannot answer now.
    """
    facts, candidates = inputs.facts, inputs.candidates
    over = {c.name: why for c in candidates if (why := _hard(inputs, roles, c))}
    left = [c for c in candidates if c.name not in over]
    fit = [c for c in left if facts.truncate or not _length(facts, c)]
    over |= _other_kinds(facts, fit)
    left = [c for c in left if c.name not in over]
    too_long = {c.name: why for c in left if (why := _length(facts, c))}
    if not (facts.truncate and len(too_long) == len(left)):
        over |= too_long
    over |= {c.name: why for c in left if c.name not in over and (why := state_problem(inputs, c))}
    left = [c for c in left if c.name not in over]
    late = {c.name: why for c in left if (why := _start(inputs, c))}
    return over if len(late) == len(left) else over | late


def licence_problem(inputs: RoutingInputs, candidate: Candidate) -> str | None:
    """The config bars this model's licence, or the class that it is of."""
    licence = candidate.spec.licence if candidate.spec else "unknown"
    hit = inputs.policy.barred & {licence, licence_class(licence)}
    return f"the config bars {next(iter(hit))} licences, it has {licence}" if hit else None


def licence_class(licence: str) -> str:
    """Returns ``non-commercial`` for a licence whose SPDX name says so (CC-BY-NC-4.0), or ""."""
    return NON_COMMERCIAL if "nc" in licence.lower().split("-") else ""


def state_problem(inputs: RoutingInputs, candidate: Candidate) -> str | None:
    """The model cannot answer until something is mended."""
    load = inputs.load(candidate)
    if load.state is not ModelState.UNAVAILABLE:
        return None
    return f"it is unavailable: {load.reason}" if load.reason else "it is unavailable"


def _hard(inputs: RoutingInputs, roles: frozenset[Role], candidate: Candidate) -> str | None:
    facts = inputs.facts
    return (
        licence_problem(inputs, candidate)
        or _kind(facts, candidate)
        or _space(facts, candidate)
        or _role(facts, roles, candidate)
        or _language(facts, candidate)
        or _dimensions(facts, candidate)
        or _instruction(facts, candidate)
        or _tokenizer(facts, candidate)
    )


def _other_kinds(facts: RequestFacts, fit: Sequence[Candidate]) -> dict[str, str]:
    """Returns why the other models that fit yield to those of the preferred kind."""
    first = preferred(facts, fit)
    return {c.name: f"a {first[0].kind} goes first" for c in fit if c not in first}


def preferred(facts: RequestFacts, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns those of the first kind in ``facts.kinds`` that there is among the candidates."""
    of_kinds = ([c for c in candidates if c.kind is kind] for kind in facts.kinds)
    return next(filter(None, of_kinds), [])


def _kind(facts: RequestFacts, candidate: Candidate) -> str | None:
    return None if candidate.kind in facts.kinds else f"it is a {candidate.kind}"


def _space(facts: RequestFacts, candidate: Candidate) -> str | None:
    if answers_in_space(facts, candidate):
        return None
    return f"it does not answer in space {facts.space}"


def _role(facts: RequestFacts, roles: frozenset[Role], candidate: Candidate) -> str | None:
    shared = candidate.shared
    if shared is None or roles <= shared.roles or reported_space(facts, candidate) is None:
        return None
    return f"space {shared.name} uses it for {' and '.join(sorted(shared.roles))} only"


def _language(facts: RequestFacts, candidate: Candidate) -> str | None:
    if not candidate.languages:  # not stated, so not held against it
        return None
    missing = facts.languages - normalized(candidate.languages)
    return f"it is not made for {', '.join(sorted(missing))}" if missing else None


def _dimensions(facts: RequestFacts, candidate: Candidate) -> str | None:
    spec = candidate.spec
    if facts.dimensions is None or (spec and spec.allows_dimensions(facts.dimensions)):
        return None
    gives = spec.dimension_choice if spec else "not yet known"
    return f"its dimensions are {gives}, not {facts.dimensions}"


def _instruction(facts: RequestFacts, candidate: Candidate) -> str | None:
    if not facts.instruction or (candidate.spec and candidate.spec.takes_instruction):
        return None
    return "it takes no instruction"


def _tokenizer(facts: RequestFacts, candidate: Candidate) -> str | None:
    if facts.tokenizer in (None, candidate.name, candidate.repo):
        return None
    return f"it cannot read token ids of {facts.tokenizer}"


def _length(facts: RequestFacts, candidate: Candidate) -> str | None:
    count = facts.longest.get(candidate.name, 0)
    if candidate.spec is None or count <= candidate.spec.max_tokens:
        return None
    return f"it takes {candidate.spec.max_tokens} tokens, the longest text has at least {count}"


def _start(inputs: RoutingInputs, candidate: Candidate) -> str | None:
    """An online caller waits only so long for a first replica."""
    load: Load = inputs.load(candidate)
    if load.state not in (ModelState.COLD, ModelState.STARTING):
        return None
    if inputs.facts.lane is Lane.OFFLINE or load.start_s <= inputs.policy.patience_s:
        return None
    return f"it is {load.state}: a start takes about {load.start_s:.0f} s"

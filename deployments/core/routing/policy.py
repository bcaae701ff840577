"""Which model answers a request. Pure: facts, candidates and load in, decision out.

A request's ``model`` is a name or Hugging Face id, a size, a configured space, or ``auto``; each
may have ``-query`` or ``-document`` behind it. A name or a size means one model, whatever the load.
Within a space, and for ``auto``, first the hard constraints (`constraints`), then the aim (`aims`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from deployments.core.errors import InvalidRequest, ModelNotAllowed, NoModelFits, UnknownModel
from deployments.core.models.prompts import choose_role
from deployments.core.models.spec import Kind, Role, Size
from deployments.core.routing.aims import CandidateCost, options, pick
from deployments.core.routing.constraints import licence_problem, preferred, problems
from deployments.core.routing.facts import Candidate, Load, Policy, RequestFacts, RoutingInputs
from deployments.core.routing.refusals import no_model_fits, refuse_kind, refuse_other_space
from deployments.core.routing.space_matching import answers_in_space, reported_space

AUTO = "auto"
PROVIDER = "openai/"  # which LiteLLM and clients built on it put in front of a name


@dataclass(frozen=True)
class Decision:
    """The model that answers, why, and the role that the name asked for, if any.

    ``space`` is what the answer calls its space where that is not the model's own: a shared one.
    ``failover`` are other models that would give vectors of that same space, best first.
    ``passed_over`` says of every other candidate why it is not the one. ``kind`` is the model's, and
    ``max_tokens`` the longest text that it takes, if that is known.
    """

    model: str
    reason: str
    role: Role | None = None
    space: str | None = None
    failover: tuple[str, ...] = ()
    passed_over: Mapping[str, str] = field(default_factory=dict, compare=False)
    kind: Kind = Kind.EMBEDDER
    max_tokens: int | None = field(default=None, compare=False)


def choose(
    facts: RequestFacts,
    candidates: Sequence[Candidate],
    loads: Mapping[str, Load] | None = None,
    policy: Policy | None = None,
) -> Decision:
    """Returns which model answers. The same facts, candidates and loads give the same answer.

    Models that the caller may not use count as absent, but for their names. Raises UnknownModel,
    ModelNotAllowed, SpaceMismatch, NoModelFits or ModelUnavailable, each with what there is.
    """
    configured, candidates = candidates, facts.allowed(candidates)
    inputs = RoutingInputs(facts, candidates, loads or {}, policy or Policy())
    for name, role in _readings(facts.requested or AUTO):
        for candidate in candidates:
            if name in (candidate.name, candidate.repo):
                return _direct(inputs, [candidate], "name", role)
        if any(name in (c.name, c.repo) for c in configured):
            raise ModelNotAllowed(_not_allowed(name, candidates), "model")
        if sized := [c for c in candidates if c.size is not None and c.size == name]:
            in_space = [c for c in sized if answers_in_space(facts, c)]
            meant = preferred(facts, in_space) or preferred(facts, sized) or sized
            return _direct(inputs, meant, "size", role)
        if members := [c for c in candidates if c.shared and c.shared.name == name]:
            within = replace(inputs, facts=replace(facts, space=facts.space or name))
            return _by_policy(within, members, "space", role)
        if name == AUTO:
            return _by_policy(inputs, candidates, AUTO, role)
    raise UnknownModel(_unknown(str(facts.requested), candidates, _known(candidates)), "model")


def unknown_to_job(
    requested: str, candidates: Sequence[Candidate], kinds: Sequence[Kind]
) -> UnknownModel:
    """Returns the refusal of a corpus job, which lists only what a job for ``kinds`` may name.

    A model whose files have not been read yet may be of any kind.
    """
    fitting = [c for c in candidates if c.spec is None or c.kind in kinds]
    if not fitting:
        return UnknownModel(
            f"no model {requested!r} here, and the service serves no {kinds[0]}: add one to its config",
            "model",
        )
    return UnknownModel(_unknown(requested, fitting, _names_and_sizes(fitting)), "model")


def is_left_open(requested: str | None, candidates: Sequence[Candidate]) -> bool:
    """Whether the policy chooses, so that the texts have to be looked at."""
    for name, _ in _readings(requested or AUTO):
        if any(name in (c.name, c.repo, c.size) for c in candidates):
            return False
        if name == AUTO or any(c.shared and c.shared.name == name for c in candidates):
            return True
    return False


def roles_of(facts: RequestFacts) -> frozenset[Role]:
    """Returns the roles that a request left to the policy will be answered in."""
    return facts.roles or frozenset({_role(_readings(facts.requested or AUTO)[-1][1], facts)})


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


def _role(from_name: Role | None, facts: RequestFacts) -> Role:
    return choose_role(from_name, facts.instruction)


def _direct(
    inputs: RoutingInputs, meant: Sequence[Candidate], reason: str, role: Role | None
) -> Decision:
    """The first that was meant, whatever its load: a size must not mix spaces in an index."""
    facts = inputs.facts
    refuse_kind(facts, meant[0], inputs.candidates)
    refuse_other_space(facts, meant, inputs.candidates)
    chosen = next(c for c in meant if answers_in_space(facts, c))
    if barred := licence_problem(inputs, chosen):
        raise NoModelFits(f"{chosen.name} may not answer: {barred}", "model")
    space = reported_space(facts, chosen) if facts.space else None
    others = [c.name for c in inputs.candidates if c is not chosen]
    over = dict.fromkeys(others, f"`model` asks for {facts.requested}")
    limit = chosen.spec.max_tokens if chosen.spec else None
    return Decision(chosen.name, reason, role, space, (), over, chosen.kind, limit)


def _by_policy(
    inputs: RoutingInputs, meant: Sequence[Candidate], kind: str, role: Role | None
) -> Decision:
    facts = inputs.facts
    refuse_other_space(facts, meant, inputs.candidates)
    over = problems(inputs, facts.roles or frozenset({_role(role, facts)}))
    left = options(inputs, [c for c in inputs.candidates if c.name not in over])
    if not left:
        raise no_model_fits(inputs, over)
    chosen, why = pick(inputs, left)
    others = [option for option in left if option is not chosen]
    over |= {o.candidate.name: f"{chosen.candidate.name} is {why}" for o in others}
    space = reported_space(facts, chosen.candidate)
    failover = _same_space(inputs, others, space)
    name, reason, given = chosen.candidate.name, f"{kind}: {why}", chosen.candidate.kind
    limit = chosen.candidate.spec.max_tokens if chosen.candidate.spec else None
    return Decision(name, reason, role, space, failover, over, given, limit)


def _same_space(
    inputs: RoutingInputs, others: Sequence[CandidateCost], space: str | None
) -> tuple[str, ...]:
    """Returns the models that may stand in, by falling suitability; none outside a shared space."""
    left = [o for o in others if space and reported_space(inputs.facts, o.candidate) == space]
    found: list[str] = []
    while left:
        following, _ = pick(inputs, left)
        found.append(following.candidate.name)
        left.remove(following)
    return tuple(found)


def _readings(requested: str) -> list[tuple[str, Role | None]]:
    """The whole name first: a model may really be called something-query."""
    readings: list[tuple[str, Role | None]] = [(requested, None)]
    for role in Role:
        if requested.endswith(f"-{role}"):
            readings.append((requested.removesuffix(f"-{role}"), role))
    if requested.startswith(PROVIDER):
        readings += _readings(requested.removeprefix(PROVIDER))
    return readings


def _unknown(requested: str, candidates: Sequence[Candidate], known: Sequence[str]) -> str:
    by_lower = {name.lower(): name for name in (*(c.repo for c in candidates), *known)}
    close = get_close_matches(requested.lower(), by_lower, n=1, cutoff=0.8)
    hint = f", did you mean {by_lower[close[0]]!r}?" if close else ";"
    return f"no model {requested!r} here{hint} known: {', '.join(known)}"


def _not_allowed(name: str, candidates: Sequence[Candidate]) -> str:
    return f"this API key may not use {name!r}, but only {', '.join(_known(candidates))}"


def _known(candidates: Sequence[Candidate]) -> list[str]:
    spaces = dict.fromkeys(c.shared.name for c in candidates if c.shared)
    return [*_names_and_sizes(candidates), *spaces, AUTO]


def _names_and_sizes(candidates: Sequence[Candidate]) -> list[str]:
    names = [candidate.name for candidate in candidates]
    return [*names, *(str(size) for size in Size if any(c.size is size for c in candidates))]

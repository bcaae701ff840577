"""The refusals when no model may answer: each says why, and what would match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deployments.core.errors import EmbedfleetError, ModelUnavailable, NoModelFits, SpaceMismatch
from deployments.core.models.spec import refuse_other_kind
from deployments.core.routing.constraints import state_problem
from deployments.core.routing.facts import Candidate, RequestFacts, RoutingInputs
from deployments.core.routing.space_matching import answers_in_space, spaces_of

_RETRY_AFTER_S = 5.0


def refuse_other_space(
    facts: RequestFacts, meant: Sequence[Candidate], candidates: Sequence[Candidate]
) -> None:
    """Raises unless one of ``meant`` answers in the space that the request requires.

    SpaceMismatch says what would match; ModelUnavailable says why a configured space does not hold.
    """
    if facts.space is None or any(answers_in_space(facts, candidate) for candidate in meant):
        return
    required = facts.space.split(":")[0]
    for candidate in candidates:
        shared = candidate.shared
        if shared and shared.problem and required in (shared.name, shared.id):
            raise ModelUnavailable(
                f"space {shared.name} does not answer: {shared.problem}", "space", _RETRY_AFTER_S
            )
    raise SpaceMismatch(_mismatch(facts, meant, candidates), "space")


def refuse_kind(facts: RequestFacts, meant: Candidate, candidates: Sequence[Candidate]) -> None:
    """Raises WrongKind, with the models that would do, if this one is of none of the wanted kinds."""
    if meant.spec is not None and meant.kind not in facts.kinds:
        others = [c.name for c in candidates if c.kind in facts.kinds]
        refuse_other_kind(meant.spec, facts.kinds[0], others)


def no_model_fits(inputs: RoutingInputs, passed_over: Mapping[str, str]) -> EmbedfleetError:
    """Returns the refusal that lists every model with the reason against it."""
    reasons = "; ".join(f"{name}: {why}" for name, why in passed_over.items())
    out = [c for c in inputs.candidates if passed_over[c.name] == state_problem(inputs, c)]
    if out:
        return ModelUnavailable(
            f"no model that fits this request can answer now ({reasons})", "model", _RETRY_AFTER_S
        )
    return NoModelFits(
        f"no model here fits this request ({reasons}); name a model to have it answer all the same",
        "model",
    )


def refuse_replaced(facts: RequestFacts, shared: str | None, answered: str) -> None:
    """Raises SpaceMismatch if the model was replaced after it was chosen for its own space.

    ``shared`` is the shared space that was decided on, if any; ``answered`` is the space of the vectors.
    """
    if facts.space is not None and shared is None and answered != facts.space:
        raise SpaceMismatch(
            f"the model that answered in space {facts.space} was replaced by one in {answered}",
            "space",
        )


def _mismatch(
    facts: RequestFacts, meant: Sequence[Candidate], candidates: Sequence[Candidate]
) -> str:
    matching = [c.name for c in candidates if answers_in_space(facts, c)]
    if matching:
        reason = f"{facts.requested!r} does not answer in space {facts.space}"
        return (
            f'{reason}; these do: {", ".join(matching)}. Set `model` to one of them, or to "auto"'
        )
    spaces = {c.name: " or ".join(spaces_of(facts, c)) for c in meant}
    known = ", ".join(f"{name} {space}" for name, space in spaces.items() if space)
    at = f" at {facts.dimensions} dimensions" if facts.dimensions else ""
    return f"no model here answers in space {facts.space}{at}; the spaces are: {known or 'none'}"

"""What a choice of model is made from: the request, the configured models, and their load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.core.models.spec import Kind, ModelSpec, Role, Size


class Aim(StrEnum):
    """What `auto` looks for among the models that can honour a request."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


class ModelState(StrEnum):
    """Whether a model answers: now, after a start, or not until something is mended."""

    READY = "ready"
    STARTING = "starting"
    COLD = "cold"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class RequestFacts:
    """A request as the choice sees it.

    ``requested`` is what stands in ``model``. ``roles`` are the roles it must be answered in; None
    means that they follow from the name or the instruction. ``languages`` are those that some text
    is surely in. ``longest`` is each model's count of tokens, prompt included, of the longest text
    (an upper bound where that is enough to know that it fits); a model without a count is taken to
    fit. ``kinds`` are the kinds of model that may answer, the preferred one first; where a reranker may,
    the first text is the query. ``tokens`` is about how many there are in all, ``largest`` in the longest
    text. ``models`` are the only ones that the caller may use; None means all.
    """

    requested: str | None = None
    roles: frozenset[Role] | None = None
    kinds: tuple[Kind, ...] = (Kind.EMBEDDER,)
    languages: frozenset[str] = frozenset()
    longest: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0
    largest: int = 0
    truncate: bool = False
    dimensions: int | None = None
    instruction: str | None = None
    tokenizer: str | None = None
    space: str | None = None
    aim: Aim | None = None
    max_latency_ms: float | None = None
    lane: Lane = Lane.ONLINE
    models: frozenset[str] | None = None

    def allowed(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Returns those candidates that the caller may use."""
        return [c for c in candidates if self.models is None or c.name in self.models]


@dataclass(frozen=True)
class SharedSpace:
    """A configured space as one of its members sees it.

    ``roles`` are those that this member may answer. ``problem`` says why the members' vectors must
    not be mixed: not compared yet, or found to disagree.
    """

    name: str
    id: str
    roles: frozenset[Role] = frozenset(Role)
    problem: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A configured model as the choice sees it; ``spec`` is None until its files are read."""

    name: str
    repo: str
    size: Size | None = None
    spec: ModelSpec | None = None
    languages: tuple[str, ...] = ()
    shared: SharedSpace | None = None

    @property
    def kind(self) -> Kind:
        """What the model gives; vectors, as most models, while that is not known."""
        return self.spec.kind if self.spec else Kind.EMBEDDER

    def own_space(self, dimensions: int | None = None) -> str | None:
        """Returns the identity of this model's own vectors; None if it gives none."""
        if self.spec is None or self.spec.kind is Kind.RERANKER:
            return None
        return space_id(self.spec, dimensions)

    def shared_space(self, dimensions: int | None = None) -> str | None:
        """Returns the identity of the space it shares with others, if that holds."""
        if self.shared is None or self.shared.problem:
            return None
        if self.spec is None:
            return self.shared.id
        dimensions = dimensions or self.spec.output_dimension
        is_full = dimensions == self.spec.dimension
        return self.shared.id if is_full else f"{self.shared.id}:{dimensions}"


@dataclass(frozen=True)
class Load:
    """How soon a model can answer.

    ``waiting`` are the tokens before a new request in each lane, ``tokens_per_s`` the measured
    speed, both of all its replicas together; ``streams`` is how many forward passes share the speed
    of each; ``start_s`` is how long its first replica takes to come up.
    """

    state: ModelState = ModelState.READY
    reason: str | None = None
    waiting: Mapping[Lane, int] = field(default_factory=dict)
    tokens_per_s: float | None = None
    replicas: int = 1
    streams: int = 1
    start_s: float = 0.0


@dataclass(frozen=True)
class Policy:
    """What the config says about choosing.

    ``busy_s``: a longer expected wait makes `balanced` look further. ``patience_s``: a start that
    takes longer is an error for the caller, so such a model is chosen only when nothing else fits.
    ``barred`` are licences (``cc-by-nc-4.0``) or classes of them (``non-commercial``).
    """

    aim: Aim = Aim.BALANCED
    busy_s: float = 0.5
    patience_s: float = 4.0
    barred: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RoutingInputs:
    """All that one choice is made from."""

    facts: RequestFacts
    candidates: Sequence[Candidate]
    loads: Mapping[str, Load] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)

    def load(self, candidate: Candidate) -> Load:
        """Returns a model's load; one that is not known is taken to be idle."""
        return self.loads.get(candidate.name, _IDLE)


_IDLE = Load()

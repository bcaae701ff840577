"""From a request to the model that answers it: finds out the facts, then asks the policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from deployments.client.client import EncoderClient
from deployments.config.schema import AppArgs, ModelConfig, Routing
from deployments.core.errors import InvalidRequest
from deployments.core.lane import Lane
from deployments.core.models.catalog import catalog_model
from deployments.core.models.lengths import about
from deployments.core.models.spec import ModelSpec
from deployments.core.request import TokenInput
from deployments.core.routing.aims import latency_s
from deployments.core.routing.facts import Candidate, Facts, Load, Policy, Shared
from deployments.core.routing.languages import languages_of
from deployments.core.routing.policy import Decision, choose, is_left_open, roles_of
from deployments.router.fleet import Fleet

_LANES = tuple(Lane)
_START_S = 20.0  # of a model that was never seen to start

SharedSpaces = Callable[[str], Shared | None]
_Known = tuple[ModelSpec | None, Routing, Shared | None]


class Chooser:
    """The policy over what is configured, what the replicas say, and what is under way."""

    def __init__(
        self,
        args: AppArgs,
        clients: Mapping[str, EncoderClient],
        fleet: Fleet,
        shared: SharedSpaces,
    ) -> None:
        """``shared`` tells, by a model's name, the space that it shares with others."""
        self._models = args.models
        self._clients = clients
        self._fleet = fleet
        self._shared = shared
        self._default = args.default_model or args.models[0].name
        self._patience_s = args.limits.cold_wait_s
        self._routing = Routing()
        self._made: dict[str, tuple[_Known, Candidate]] = {}
        self._under_way: dict[Lane, Counter[str]] = {lane: Counter() for lane in Lane}

    def configure(self, routing: Routing) -> None:
        """Takes over another configuration; the next request is chosen by it."""
        self._routing = routing

    async def choose(
        self, facts: Facts, texts: Sequence[str] | TokenInput
    ) -> tuple[Facts, Decision]:
        """Returns which model answers, and what was found out first; errors as `routing.choose`."""
        is_default = facts.requested is None and facts.space is None
        asked = replace(facts, requested=self._default) if is_default else facts
        candidates = self.candidates()
        if is_left_open(asked.requested, candidates):
            asked = await self.looked_at(asked, texts, candidates)
        decision = choose(asked, candidates, self.loads(), self._policy())
        if is_default and decision.reason == "name":
            decision = replace(decision, reason="default")
        return asked, decision

    async def choose_one(self, requested: str) -> Decision:
        """Returns the model of a corpus job, before there are texts; errors as `routing.choose`.

        Raises InvalidRequest for a name by which the texts of each request choose.
        """
        if is_left_open(requested, self.candidates()):
            raise InvalidRequest(
                f"a corpus job needs one model: name it, or a size; `{requested}` chooses per request",
                "model",
            )
        _, decision = await self.choose(Facts(requested=requested, lane=Lane.OFFLINE), ())
        return decision

    async def looked_at(
        self, facts: Facts, texts: Sequence[str] | TokenInput, candidates: Sequence[Candidate]
    ) -> Facts:
        """Returns the facts with what the texts tell: languages, lengths, about how much work."""
        if isinstance(texts, TokenInput):
            counts = [len(row) for row in texts.rows]
            return replace(
                facts,
                tokenizer=texts.tokenizer,
                longest=dict.fromkeys((c.name for c in candidates), max(counts)),
                tokens=sum(counts),
                largest=max(counts),
            )
        return replace(
            facts,
            languages=languages_of(texts),
            longest=await self._longest(facts, texts, candidates),
            tokens=about(texts),
            largest=about([max(texts, key=len)]),
        )

    def candidates(self) -> list[Candidate]:
        """Returns every configured model with all that is known of it now."""
        return [self._candidate(model) for model in self._models]

    def loads(self) -> dict[str, Load]:
        """Returns how soon each model can answer, as of the last look a second or so ago."""
        return {model.name: self._load(model.name) for model in self._models}

    def expected_ms(self, facts: Facts) -> dict[str, float]:
        """Returns what each model would take for this request."""
        return {name: latency_s(facts, load) * 1_000 for name, load in self.loads().items()}

    @contextmanager
    def under_way(self, model: str, lane: Lane, tokens: int) -> Iterator[None]:
        """Counts a request's tokens for as long as it runs: a flood shows before the next look."""
        self._under_way[lane][model] += tokens
        try:
            yield
        finally:
            self._under_way[lane][model] -= tokens

    async def _longest(
        self, facts: Facts, texts: Sequence[str], candidates: Sequence[Candidate]
    ) -> dict[str, int]:
        """A model whose tokenizer is not at hand has no count: it can hardly answer either."""
        found: dict[str, int] = {}
        for candidate in candidates:
            preprocessor = self._clients[candidate.name].preprocessor
            if preprocessor is None:
                continue
            counts = [
                await preprocessor.longest(texts, r, facts.instruction) for r in roles_of(facts)
            ]
            found[candidate.name] = max(counts)
        return found

    def _candidate(self, model: ModelConfig) -> Candidate:
        key = (self._clients[model.name].spec, self._routing, self._shared(model.name))
        made = self._made.get(model.name)
        if made is None or made[0] != key:
            made = self._made[model.name] = (key, candidate(model, *key))
        return made[1]

    def _load(self, name: str) -> Load:
        status = self._fleet.status(name)
        measured = self._fleet.measured(name)
        replicas = max(1, status.replicas)
        waiting = {
            lane: max(status.replica.waiting.get(lane, 0) * replicas, self._under_way[lane][name])
            for lane in _LANES
        }
        speed = measured.tokens_per_s * replicas if measured and measured.tokens_per_s else None
        start_s = measured.start_s if measured and measured.start_s is not None else _START_S
        streams = (measured and measured.streams) or 1
        return Load(status.state, status.reason, waiting, speed, replicas, streams, start_s)

    def _policy(self) -> Policy:
        routing = self._routing
        barred = frozenset(routing.barred_licences)
        return Policy(routing.aim, routing.busy_s, self._patience_s, barred)


def candidate(
    model: ModelConfig,
    spec: ModelSpec | None = None,
    routing: Routing | None = None,
    shared: Shared | None = None,
) -> Candidate:
    """Returns a configured model as the choice sees it; ``spec`` is None until its files are read."""
    known = catalog_model(model.name, model.path)
    found = spec or known
    size = model.size or (known.size if known else None)
    if routing is not None:
        size = routing.sizes.get(model.name, size)
    if found is not None:  # the config adds what a model's files do not state
        languages, licence = model.languages or found.languages, model.licence or found.licence
        found = replace(found, languages=languages, licence=licence)
    repo = known.repo if known else model.path or model.name
    return Candidate(
        model.name, repo, size, found, found.languages if found else model.languages or (), shared
    )

"""From a request to the model that answers it: gathers the facts, then applies the policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from deployments.client.client import EncoderClient
from deployments.config.schema import AppArgs, ModelConfig, Routing
from deployments.core.errors import InvalidRequest, ModelUnavailable, UnknownModel
from deployments.core.lane import Lane
from deployments.core.models.catalog import catalog_model
from deployments.core.models.spec import Kind, ModelSpec
from deployments.core.models.token_bounds import estimate_tokens
from deployments.core.request import TokenInput
from deployments.core.routing.aims import latency_s
from deployments.core.routing.constraints import preferred
from deployments.core.routing.facts import Candidate, Load, Policy, RequestFacts, SharedSpace
from deployments.core.routing.languages import languages_of
from deployments.core.routing.policy import (
    AUTO,
    Decision,
    choose,
    is_left_open,
    roles_of,
    unknown_to_job,
)
from deployments.router.fleet import Fleet

_UNKNOWN_START_S = 20.0  # for a model that was never seen to start

SharedSpaceOf = Callable[[str], SharedSpace | None]
_CandidateKey = tuple[ModelSpec | None, Routing, SharedSpace | None]


class Chooser:
    """Applies the policy to the configured models, their replicas' states and the work in progress."""

    def __init__(
        self,
        args: AppArgs,
        clients: Mapping[str, EncoderClient],
        fleet: Fleet,
        shared_space_of: SharedSpaceOf,
    ) -> None:
        """``shared_space_of`` returns the configured space that a model, by its name, is a member of."""
        self._models = args.models
        self._clients = clients
        self._fleet = fleet
        self._shared_space_of = shared_space_of
        self._default = args.default_model or args.models[0].name
        self._patience_s = args.limits.cold_wait_s
        self._routing = Routing()
        self._candidates: dict[str, tuple[_CandidateKey, Candidate]] = {}
        self._in_progress: dict[Lane, Counter[str]] = {lane: Counter() for lane in Lane}

    def configure(self, routing: Routing) -> None:
        """Applies another configuration from the next request on."""
        self._routing = routing

    async def choose(
        self, facts: RequestFacts, texts: Sequence[str] | TokenInput
    ) -> tuple[RequestFacts, Decision]:
        """Returns the completed facts and which model answers. Raises what `policy.choose` raises."""
        candidates = await self._known(facts)
        is_default = facts.requested is None and facts.space is None
        if is_default:
            allowed = facts.allowed(candidates)
            facts = replace(facts, requested=self._default_for(facts, allowed))
        if is_left_open(facts.requested, candidates):
            facts = await self._with_texts(facts, texts, candidates)
        decision = choose(facts, candidates, self.loads(), self._policy())
        if is_default and decision.reason == "name":
            decision = replace(decision, reason="default")
        return facts, decision

    async def _known(self, facts: RequestFacts) -> list[Candidate]:
        """Returns every configured model; if several kinds may answer, that of the one named is known."""
        named = self._clients.get(facts.requested or "")
        if len(facts.kinds) > 1 and named is not None and named.spec is None:
            with suppress(ModelUnavailable):  # its call says why
                await named.ready_preprocessor(self._patience_s)
        return self.candidates()

    def _default_for(self, facts: RequestFacts, candidates: Sequence[Candidate]) -> str:
        """Returns the model of requests that name none: the config's, if it is of the preferred kind, or
        else the first one that is.
        """
        of_kind = preferred(facts, candidates)
        is_open = self._default not in self._clients  # `auto`, or a space
        if not of_kind or self._default == AUTO or (is_open and of_kind[0].kind is Kind.EMBEDDER):
            return self._default
        names = [candidate.name for candidate in of_kind]
        return self._default if self._default in names else names[0]

    async def choose_for_job(self, requested: str, kinds: tuple[Kind, ...]) -> Decision:
        """Returns the model of a corpus job, for which there are no texts yet; it has one of ``kinds``.

        Raises InvalidRequest for a name that leaves the choice to the texts of each request, and what
        `policy.choose` raises.
        """
        if is_left_open(requested, self.candidates()):
            raise InvalidRequest(
                "a corpus job needs one model; set `model` to a name or a size, since "
                f"`{requested}` chooses for each request",
                "model",
            )
        facts = RequestFacts(requested, kinds=kinds, lane=Lane.OFFLINE)
        try:
            _, decision = await self.choose(facts, ())
        except UnknownModel as error:
            raise unknown_to_job(requested, self.candidates(), kinds) from error
        return decision

    async def _with_texts(
        self,
        facts: RequestFacts,
        texts: Sequence[str] | TokenInput,
        candidates: Sequence[Candidate],
    ) -> RequestFacts:
        """Returns the facts with what the texts show: languages, lengths, and the amount of work."""
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
            tokens=estimate_tokens(texts),
            largest=estimate_tokens([max(texts, key=len)]),
        )

    async def _longest(
        self, facts: RequestFacts, texts: Sequence[str], candidates: Sequence[Candidate]
    ) -> dict[str, int]:
        """Returns the tokens of the longest text for each model whose tokenizer is loaded."""
        longest: dict[str, int] = {}
        for candidate in candidates:
            preprocessor = self._clients[candidate.name].preprocessor
            if preprocessor is None or candidate.kind not in facts.kinds:
                continue
            if candidate.kind is Kind.RERANKER:
                query, *documents = texts
                longest[candidate.name] = await preprocessor.longest_pair(query, documents)
                continue
            counts = [
                await preprocessor.longest(texts, role, facts.instruction)
                for role in roles_of(facts)
            ]
            longest[candidate.name] = max(counts)
        return longest

    def candidates(self) -> list[Candidate]:
        """Returns every configured model with everything that is known of it now."""
        return [self._candidate(model) for model in self._models]

    def _candidate(self, model: ModelConfig) -> Candidate:
        key = (self._clients[model.name].spec, self._routing, self._shared_space_of(model.name))
        cached = self._candidates.get(model.name)
        if cached is None or cached[0] != key:
            cached = self._candidates[model.name] = (key, candidate(model, *key))
        return cached[1]

    def loads(self) -> dict[str, Load]:
        """Returns how soon each model can answer, as of the fleet's last refresh."""
        return {model.name: self.load(model.name) for model in self._models}

    def load(self, name: str) -> Load:
        """Returns how soon one model can answer."""
        status = self._fleet.status(name)
        measured = self._fleet.measured(name)
        replicas = max(1, status.replicas)
        waiting = {
            lane: max(status.replica.waiting.get(lane, 0), self._in_progress[lane][name])
            for lane in Lane
        }
        speed = measured.tokens_per_s * replicas if measured and measured.tokens_per_s else None
        start_s = (
            measured.start_s if measured and measured.start_s is not None else _UNKNOWN_START_S
        )
        streams = (measured and measured.streams) or 1
        return Load(status.state, status.reason, waiting, speed, replicas, streams, start_s)

    def _policy(self) -> Policy:
        routing = self._routing
        barred = frozenset(routing.barred_licences)
        return Policy(routing.aim, routing.busy_s, self._patience_s, barred)

    def expected_ms(self, facts: RequestFacts) -> dict[str, float]:
        """Returns the time that each model is expected to take for this request."""
        return {name: latency_s(facts, load) * 1_000 for name, load in self.loads().items()}

    @contextmanager
    def in_progress(self, model: str, lane: Lane, tokens: int) -> Iterator[None]:
        """Counts a request's tokens while it runs: a flood shows before the fleet's next refresh."""
        self._in_progress[lane][model] += tokens
        try:
            yield
        finally:
            self._in_progress[lane][model] -= tokens


def candidate(
    model: ModelConfig,
    spec: ModelSpec | None = None,
    routing: Routing | None = None,
    shared: SharedSpace | None = None,
) -> Candidate:
    """Returns a configured model as the policy sees it; ``spec`` is None until its files are read."""
    known = catalog_model(model.name, model.path)
    spec = spec or known
    size = model.size or (known.size if known else None)
    if routing is not None:
        size = routing.sizes.get(model.name, size)
    if spec is not None:  # the config adds what a model's files do not state
        languages, licence = model.languages or spec.languages, model.licence or spec.licence
        spec = replace(spec, languages=languages, licence=licence)
    repo = known.repo if known else model.path or model.name
    return Candidate(
        model.name, repo, size, spec, spec.languages if spec else model.languages or (), shared
    )

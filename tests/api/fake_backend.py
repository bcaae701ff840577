"""A `Backend` of models with predictable vectors: no weights and no Ray.

A text's vector comes from the SHA-256 of what the model would have read, prompt included. Its tokens are
its words and two special ones. Prompts, limits, dimensions and spaces come from the real code. Errors
have their real classes, and short messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from deployments.api.backend import Texts
from deployments.api.responses import Explanation, ModelItem, RouteCandidate, SpaceItem
from deployments.core.errors import ContextLengthExceeded, InvalidRequest
from deployments.core.lane import Lane
from deployments.core.models.prompts import effective_instruction, render
from deployments.core.models.space import space_id
from deployments.core.models.spec import (
    Activation,
    Kind,
    ModelSpec,
    Pooling,
    Prompts,
    Role,
    Size,
    refuse_other_kind,
)
from deployments.core.request import Embeddings, EncodeRequest, TokenInput, check_dimensions
from deployments.core.routing.constraints import preferred
from deployments.core.routing.facts import Candidate, RequestFacts
from deployments.core.routing.policy import Decision, choose
from deployments.core.sparse import SparseVectors
from deployments.core.tenants.usage import TenantUsage
from deployments.core.vectors import finished, scores

DIMENSION = 8
_SPECIAL_TOKENS = 2


def _spec(name: str, **facts: object) -> ModelSpec:
    values = {"max_tokens": 12, "pooling": Pooling.MEAN, "languages": ("en",), **facts}
    return ModelSpec(name, f"acme/{name}", f"{name}-1", "bert", dimension=DIMENSION, **values)


PLAIN = _spec("plain", size=Size.SMALL, prompts=Prompts("query: ", "passage: "))
INSTRUCT = _spec(
    "instruct",
    size=Size.MEDIUM,
    max_tokens=64,
    prompts=Prompts(
        query_instruction="Instruct: {instruction}\nQuery: ",
        default_instruction="Find what answers",
    ),
)
NESTED = _spec("nested", truncatable_dimensions=(2, 4), normalize=False, max_tokens=1_000_000)
SPECS = {spec.name: spec for spec in (PLAIN, INSTRUCT, NESTED)}
JUDGE = replace(
    _spec("judge", size=Size.SMALL),
    dimension=1,
    kind=Kind.RERANKER,
    activation=Activation.SIGMOID,
    normalize=False,
)

SPLADE = replace(
    _spec("splade", size=Size.SMALL, prompts=Prompts("query: ", "passage: ")),
    kind=Kind.SPARSE,
    normalize=False,
    pooling=None,
)


def vector_of(text: str) -> np.ndarray:
    """Returns the unnormalised float32 vector of what a model reads."""
    numbers = np.frombuffer(hashlib.sha256(text.encode()).digest(), "<u4")
    return ((numbers.astype(np.float64) / 2**32 - 0.5) * 7).astype(np.float32)


def logit_of(query: str, document: str) -> float:
    """Returns the logit that a reranker gives a pair."""
    return float(vector_of(f"{query}\n{document}")[0])


def expected(spec: ModelSpec, request: EncodeRequest) -> np.ndarray:
    """Returns the vectors that the API must answer for a request's texts."""
    rows = _read_by_model(spec, request)
    if not request.truncate:
        assert all(_tokens(row) <= spec.max_tokens for row in rows)
    normalize = spec.normalize if request.normalize is None else request.normalize
    dimensions = check_dimensions(spec, request.dimensions)
    return finished(np.stack([vector_of(_cut(spec, r)) for r in rows]), dimensions, normalize)


def sparse_of(vectors: np.ndarray) -> SparseVectors:
    """Returns what a sparse model gives: the entries above zero."""
    return SparseVectors.from_dense(np.maximum(vectors, 0))


@dataclass
class FakeBackend:
    """Answers like the router. Each call that encodes raises ``failing``, if set.

    ``problem`` is that of the cluster. ``specs`` are the models.
    """

    specs: dict[str, ModelSpec] = field(default_factory=lambda: dict(SPECS))
    states: dict[str, str] = field(default_factory=lambda: dict.fromkeys(SPECS, "ready"))
    failing: Exception | None = None
    problem: str | None = None
    vectors: Callable[[ModelSpec, EncodeRequest], np.ndarray] = expected
    calls: list[tuple[str, EncodeRequest, Lane]] = field(default_factory=list)
    deadlines: set[float] = field(default_factory=set)

    async def choose(self, facts: RequestFacts, texts: Texts) -> Decision:
        """Returns which model answers; `auto` ignores the texts."""
        if facts.requested is None and facts.space is None:
            first = next(iter(preferred(facts, facts.allowed(self.candidates()))), None)
            named = replace(facts, requested=first.name if first else PLAIN.name)
            return replace(choose(named, self.candidates()), reason="default")
        return choose(facts, self.candidates())

    async def explain(self, facts: RequestFacts, texts: Texts) -> Explanation:
        """Returns which model would answer."""
        decision = await self.choose(facts, texts)
        candidates = [
            RouteCandidate(
                model=c.name,
                size=c.size,
                state="ready",
                space=c.own_space(),
                expected_ms=1.5,
                passed_over=decision.passed_over.get(c.name),
            )
            for c in facts.allowed(self.candidates())
        ]
        return Explanation(decision, facts, candidates)

    def candidates(self) -> list[Candidate]:
        """Returns every model as the policy sees it."""
        return [Candidate(s.name, s.repo, s.size, s, s.languages) for s in self.specs.values()]

    async def encode(
        self, decision: Decision, request: EncodeRequest, lane: Lane, deadline: float
    ) -> Embeddings:
        """Returns the vectors of a request."""
        model = decision.model
        self.calls.append((model, request, lane))
        self.deadlines.add(deadline)
        if self.failing is not None:
            raise self.failing
        spec = self.specs[model]
        refuse_other_kind(spec, request.kind)
        if request.scoring is not None:
            return _scored(spec, request)
        dimensions = check_dimensions(spec, request.dimensions)
        rows = _read_by_model(spec, request)
        over = tuple(i for i, row in enumerate(rows) if _tokens(row) > spec.max_tokens)
        if over and not request.truncate:
            raise ContextLengthExceeded(f"text {over[0]} is too long", "input")
        vectors, sparse = self.vectors(spec, request), None
        if request.sparse:
            sparse, vectors = sparse_of(vectors), vectors[:, :0]
        return Embeddings(
            vectors=vectors,
            sparse=sparse,
            model=model,
            space=space_id(spec, dimensions),
            tokens=sum(min(_tokens(row), spec.max_tokens) for row in rows),
            truncated=over,
            instruction=effective_instruction(spec, request.role, request.instruction),
            queued_s=0.0015,
            computed_s=0.25,
        )

    def models(self) -> list[ModelItem]:
        """Returns every model and its state."""
        return [_item(spec, self.states.get(spec.name, "ready")) for spec in self.specs.values()]

    def spaces(self) -> list[SpaceItem]:
        """Returns a space whose members agree, and one whose members do not."""
        members = {"plain": ["query"], "instruct": ["query", "document"]}
        return [
            SpaceItem(
                name="pair",
                id="0123456789ab",
                state="ready",
                reason=None,
                worst_cosine=0.97,
                members=members,
            ),
            SpaceItem(
                name="wrong",
                id=None,
                state="unavailable",
                reason="its members disagree",
                worst_cosine=None,
                members=members,
            ),
        ]

    def cluster_problem(self) -> str | None:
        """Returns ``problem``."""
        return self.problem

    async def usage(self, tenant: str, own: TenantUsage) -> TenantUsage:
        """Returns what the only router has counted."""
        return own

    async def metrics(self) -> str:
        """Returns one metric."""
        return "embedfleet_texts_total 1\n"


def _scored(spec: ModelSpec, request: EncodeRequest) -> Embeddings:
    scoring, texts = request.scoring, request.texts
    assert scoring is not None
    assert not isinstance(texts, TokenInput)
    effective_instruction(spec, Role.QUERY, request.instruction)
    lengths = [_tokens(f"{scoring.query} {text}") for text in texts]
    over = tuple(i for i, length in enumerate(lengths) if length > spec.max_tokens)
    if over and not (request.truncate or scoring.chunk):
        raise ContextLengthExceeded(f"document {over[0]} is too long", "documents")
    logits = np.float32([[logit_of(scoring.query, text)] for text in texts])
    return Embeddings(
        vectors=scores(logits, spec.activation, scoring.raw),
        model=spec.name,
        space=space_id(spec),
        tokens=sum(lengths),
        truncated=() if scoring.chunk else over,
        queued_s=0.0015,
        computed_s=0.25,
    )


def _read_by_model(spec: ModelSpec, request: EncodeRequest) -> list[str]:
    if not isinstance(request.texts, TokenInput):
        return render(spec, request.texts, request.role, request.instruction)
    if request.texts.tokenizer not in (spec.name, spec.repo):
        raise InvalidRequest(f"not the tokenizer of {spec.name}", "tokenizer")
    return [" ".join(map(str, ids)) for ids in request.texts.rows]


def _tokens(text: str) -> int:
    return len(text.split()) + _SPECIAL_TOKENS


def _cut(spec: ModelSpec, text: str) -> str:
    if _tokens(text) <= spec.max_tokens:
        return text
    return " ".join(text.split()[: spec.max_tokens - _SPECIAL_TOKENS])


def _item(spec: ModelSpec, state: str) -> ModelItem:
    return ModelItem(
        id=spec.name,
        kind=spec.kind.value,
        owned_by=spec.repo.split("/")[0],
        hugging_face_id=spec.repo,
        state=state,
        reason=None if state == "ready" else f"it is {state}",
        replicas=int(state == "ready"),
        size=spec.size.value if spec.size else None,
        dimension=spec.dimension,
        dimensions=list(spec.dimensions),
        max_tokens=spec.max_tokens,
        languages=list(spec.languages),
        space_id=None if spec.kind is Kind.RERANKER else space_id(spec),
        licence=spec.licence,
        default_instruction=spec.prompts.default_instruction,
        trust_remote_code=spec.trust_remote_code,
        notices=list(spec.notices),
        device="cpu",
        dtype="float32",
        tokens_per_s=1_000,
        waiting_tokens=0,
        network="fast",
        why_general=None,
        compared_with="sentence-transformers",
        token_budget=8_192,
        streams=1,
        gpu_ids=[],
        memory_mib=None,
        shared_space=None,
    )

"""A request to encode texts, and its answer, without HTTP and without Ray."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.core.batch import Vectors
from deployments.core.errors import InvalidRequest
from deployments.core.models.spec import Kind, ModelSpec, Role, Truncation
from deployments.core.models.token_bounds import estimate_tokens
from deployments.core.sparse import SparseVectors
from deployments.core.tenants.tenant import SHARE_OF_ANYONE, Share


@dataclass(frozen=True)
class TokenInput:
    """Texts that the caller has tokenized: whole sequences, prompt and special tokens included."""

    tokenizer: str
    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Scoring:
    """How a reranker scores texts, each of them together with the same query.

    If the request allows it, texts that are too long are cut as ``truncation`` says. With ``chunk`` they
    get the score of their best part. ``raw`` asks for logits instead of the scores of the model's card.
    """

    query: str
    truncation: Truncation = Truncation.LONGEST_FIRST
    chunk: bool = False
    raw: bool = False


@dataclass(frozen=True)
class EncodeRequest:
    """Texts of one role for one model.

    ``dimensions`` None keeps all of the model's; ``normalize`` None does what the model does by itself.
    ``scoring`` is for rerankers, which answer with one number for each text, and ``sparse`` for sparse
    encoders. ``share`` is that of the tenant who asks.
    """

    texts: tuple[str, ...] | TokenInput
    role: Role = Role.DOCUMENT
    instruction: str | None = None
    truncate: bool = False
    dimensions: int | None = None
    normalize: bool | None = None
    scoring: Scoring | None = None
    sparse: bool = False
    share: Share = SHARE_OF_ANYONE

    @property
    def kind(self) -> Kind:
        """The kind of model that can answer."""
        if self.scoring is not None:
            return Kind.RERANKER
        return Kind.SPARSE if self.sparse else Kind.EMBEDDER


@dataclass(frozen=True)
class Embeddings:
    """Float32 vectors ``(texts, dimensions)`` in the order of the request, and where they come from.

    A reranker gives scores instead, ``(texts, 1)``, whose space names its version. A sparse encoder's
    vectors are in ``sparse``, and ``vectors`` has the shape ``(texts, 0)``.

    ``tokens`` includes prompts and special tokens, after truncation. ``truncated`` has the rows that
    were cut. ``instruction`` is the one that was used: the request's or the model's default.
    """

    vectors: Vectors
    model: str
    space: str
    tokens: int
    truncated: tuple[int, ...] = ()
    instruction: str | None = None
    queued_s: float = 0.0
    computed_s: float = 0.0
    sparse: SparseVectors | None = None


def check_dimensions(spec: ModelSpec, dimensions: int | None) -> int:
    """Returns the output dimension. Raises InvalidRequest for one that the model cannot give."""
    if dimensions is None:
        return spec.output_dimension
    if spec.kind is Kind.SPARSE:
        raise InvalidRequest(
            f"{spec.name} gives sparse vectors, which are not cut; leave `dimensions` out",
            "dimensions",
        )
    if spec.allows_dimensions(dimensions):
        return dimensions
    choice = f"gives {spec.dimension_choice} dimensions"
    if len(spec.dimensions) == 1 and spec.truncatable_from is None and dimensions < spec.dimension:
        choice += (
            " (if it was trained to be cut, state smaller ones as its `dimensions` in the config)"
        )
    raise InvalidRequest(f"{spec.name} {choice}, not {dimensions}", "dimensions")


def estimated_tokens(request: EncodeRequest, limit: int | None) -> int:
    """Returns about how many tokens a request has; a text has at most ``limit``."""
    texts = request.texts
    if isinstance(texts, TokenInput):
        return sum(map(len, texts.rows))
    if (scoring := request.scoring) is None:
        return estimate_tokens(texts, limit)
    before = estimate_tokens([scoring.query])
    room = None if limit is None or scoring.chunk else max(0, limit - before)
    return len(texts) * before + estimate_tokens(texts, room)

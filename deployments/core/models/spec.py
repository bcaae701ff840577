"""Everything known about a model before its weights are read: one frozen record per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from deployments.core.errors import UnsupportedModel, WrongKind


class Role(StrEnum):
    """Whether a text is a query or a document in retrieval, which decides its prompt."""

    QUERY = "query"
    DOCUMENT = "document"


class Kind(StrEnum):
    """What a model makes of texts: a vector of each, a sparse one, or a score of each pair of them."""

    EMBEDDER = "embedder"
    RERANKER = "reranker"
    SPARSE = "sparse"


GIVE_VECTORS = (Kind.EMBEDDER, Kind.SPARSE)


class Activation(StrEnum):
    """What turns a reranker's logit into the score that its authors publish."""

    IDENTITY = "identity"
    SIGMOID = "sigmoid"


class Truncation(StrEnum):
    """Which text of a pair is cut if both together are over the model's limit.

    ``LONGEST_FIRST`` takes from the longer one until both are equally long, as sentence-transformers
    does. Queries stay whole with ``ONLY_SECOND``.
    """

    LONGEST_FIRST = "longest_first"
    ONLY_SECOND = "only_second"


class Size(StrEnum):
    """What a request may ask for instead of a model's name."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Pooling(StrEnum):
    """How token vectors become one text vector."""

    MEAN = "mean"
    LAST_TOKEN = "last_token"
    CLS = "cls"


class Side(StrEnum):
    """The end of a text that is cut off if the text is over the model's limit."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True)
class Prompts:
    """Text put in front of the caller's text, by role.

    ``query_instruction`` is a template that contains ``{instruction}``. A model that has one is an
    instruct model and does not use ``query``.
    """

    query: str = ""
    document: str = ""
    query_instruction: str | None = None
    default_instruction: str | None = None

    @property
    def are_empty(self) -> bool:
        """Whether the model reads texts of both roles as they are."""
        return not (self.query or self.document or self.query_instruction)


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that every text starts and ends with, exactly once, also after truncation."""

    first: tuple[int, ...]
    last: tuple[int, ...]


@dataclass(frozen=True)
class PairTokens:
    """Ids that stand before, between and after the two texts of a pair.

    ``second_type`` is the token type id from the second text on; it is 0 for what stands before.
    """

    first: tuple[int, ...]
    between: tuple[int, ...]
    last: tuple[int, ...]
    second_type: int = 0

    def __len__(self) -> int:
        return len(self.first) + len(self.between) + len(self.last)


@dataclass(frozen=True)
class Question:
    """How a causal model is asked whether a document answers a query.

    It reads ``before``, the query and the document behind their prompts, and ``after``. Its logit is the
    difference between those of the next words ``yes`` and ``no``.
    """

    before: str
    after: str
    yes: str = "yes"
    no: str = "no"


@dataclass(frozen=True)
class PublishedExample:
    """Scores printed on a model card, with the inputs they were computed from.

    ``scores[i][j]`` is ``scale`` × cosine of query ``i`` and document ``j``.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]
    scale: float
    source: str
    instruction: str | None = None


@dataclass(frozen=True)
class ModelSpec:
    """A model's description: weights at a pinned revision, and how to compute the right vectors.

    - A reranker (``kind``) gives one logit for a pair of texts: its ``dimension`` is 1, and
      ``activation`` makes its scores. A causal one has a ``question``; for others, ``pair_tokens`` are
      what stands around the two texts. These, and ``answer_tokens``, the ids of yes and no, are known
      once its tokenizer has been read. A sparse encoder gives a weight for each of ``dimension``
      tokens, most of them zero.
    - ``pooling`` is None if the model does more than pool and normalise, or pools in a way that has no
      name here. Then only sentence-transformers' own modules compute its vectors.
    - ``special_tokens`` is None if the tokenizer's own template is right.
    - ``languages`` holds ISO 639-1 codes; empty means not stated.
    - ``max_tokens`` counts special tokens. ``truncation_side`` is the end that is cut if a caller
      allows it.
    - ``truncatable_dimensions`` are the Matryoshka dimensions below ``dimension``. With
      ``truncatable_from``, every dimension from that one is allowed. ``default_dimension`` is the one
      of requests that do not say, if the model's files set it below ``dimension``.
    - ``needs_prompts`` says that a text's vector depends on its role, or on where its prompt ends (for a
      reranker, the first text of a pair), so texts travel with both (`TokenBatch.prompts`).
    - ``has_further_modules`` says that more than pooling and normalisation follows the transformer, so
      ``modules.json`` is needed.
    - ``parameters`` are millions.
    - ``notices`` are sentences for the operator: what was assumed, and which field settles it.
    """

    name: str
    repo: str
    revision: str
    backbone: str
    pooling: Pooling | None
    dimension: int
    max_tokens: int
    kind: Kind = Kind.EMBEDDER
    activation: Activation = Activation.IDENTITY
    pair_tokens: PairTokens | None = None
    question: Question | None = None
    answer_tokens: tuple[int, int] | None = None
    size: Size | None = None
    languages: tuple[str, ...] = ()
    prompts: Prompts = Prompts()
    special_tokens: SpecialTokens | None = None
    normalize: bool = True
    lowercase: bool = False
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    truncatable_dimensions: tuple[int, ...] = ()
    truncatable_from: int | None = None
    default_dimension: int | None = None
    truncation_side: Side = Side.RIGHT
    needs_prompts: bool = False
    has_further_modules: bool = False
    trust_remote_code: bool = False
    licence: str = "unknown"
    parameters: float | None = None
    weights_sha256: str | None = None
    package: str | None = None
    published_example: PublishedExample | None = None
    notices: tuple[str, ...] = ()

    @property
    def takes_instruction(self) -> bool:
        """Whether queries carry a task instruction."""
        return self.prompts.query_instruction is not None

    @property
    def output_dimension(self) -> int:
        """The dimension of vectors whose request does not say."""
        return self.default_dimension or self.dimension

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The stated output dimensions, smallest first; `allows_dimensions` knows all of them."""
        return (*sorted(self.truncatable_dimensions), self.dimension)

    @property
    def dimension_choice(self) -> str:
        """The dimensions that a request may ask for, in words."""
        if self.truncatable_from is not None:
            return f"{self.truncatable_from} to {self.dimension}"
        return " or ".join(map(str, self.dimensions))

    def allows_dimensions(self, dimensions: int) -> bool:
        """Whether a request may ask for vectors of this dimension."""
        least = self.truncatable_from
        return dimensions in self.dimensions or (
            least is not None and least <= dimensions < self.dimension
        )


def other_model(spec: ModelSpec, backbone: str, dimension: int) -> UnsupportedModel:
    """Returns the refusal of files that are not the model which ``spec`` describes."""
    return UnsupportedModel(
        f"the files are a {backbone} model of dimension {dimension}, but {spec.name} is a "
        f"{spec.backbone} model of dimension {spec.dimension}; is the model's `path` wrong?"
    )


_GIVES = {
    Kind.EMBEDDER: "gives dense vectors of texts, no sparse ones, and no scores of pairs",
    Kind.RERANKER: "is a reranker: it scores pairs of texts (/v1/rerank) and gives no vectors",
    Kind.SPARSE: "gives sparse vectors and no others (`encoding_format`: sparse)",
}


def refuse_other_kind(spec: ModelSpec, wanted: Kind, others: Sequence[str] = ()) -> None:
    """Raises WrongKind unless the model is of this kind; ``others`` are models that are."""
    if spec.kind is not wanted:
        instead = (
            f"these do: {', '.join(others)}"
            if others
            else f"name a model that is of the kind {wanted}"
        )
        raise WrongKind(f"{spec.name} {_GIVES[spec.kind]}; {instead}", "model")

"""Everything known about a model before its weights are read: one frozen record per model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Whether a text is a query or a document in retrieval, which decides its prompt."""

    QUERY = "query"
    DOCUMENT = "document"


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


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that every text starts and ends with, exactly once, also after truncation."""

    first: tuple[int, ...]
    last: tuple[int, ...]


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

    ``special_tokens`` is None if the tokenizer's own template is right. ``languages`` holds ISO 639-1
    codes; empty means not stated. ``truncatable_dimensions`` are the Matryoshka dimensions
    below ``dimension``. ``max_tokens`` counts special tokens.
    """

    name: str
    repo: str
    revision: str
    backbone: str
    pooling: Pooling
    dimension: int
    max_tokens: int
    size: Size | None = None
    languages: tuple[str, ...] = ()
    prompts: Prompts = Prompts()
    special_tokens: SpecialTokens | None = None
    normalize: bool = True
    lowercase: bool = False
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    truncatable_dimensions: tuple[int, ...] = ()
    licence: str = "unknown"
    weights_sha256: str | None = None
    package: str | None = None
    published_example: PublishedExample | None = None

    @property
    def takes_instruction(self) -> bool:
        """Whether queries carry a task instruction."""
        return self.prompts.query_instruction is not None

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Every output dimension that a request may ask for, smallest first."""
        return (*sorted(self.truncatable_dimensions), self.dimension)

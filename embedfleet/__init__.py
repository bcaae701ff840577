"""One embedding service for a whole cluster: what programs import.

    Client, AsyncClient   a running service over HTTP
    encode_corpus         a corpus job, as `embedfleet encode` runs it
    score_corpus          one of scores, as `embedfleet score` runs it
    data.embed            a stage of a Ray Data pipeline

The clients load neither Ray nor the code of the service. The others load both when they are first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from embedfleet.client import AsyncClient, Client
from embedfleet.errors import (
    EmbedfleetError,
    ServiceError,
    SpaceMismatch,
    UnexpectedAnswer,
    Unreachable,
)
from embedfleet.requests import Bounds
from embedfleet.results import Embeddings, RankedDocument, Ranking

if TYPE_CHECKING:
    from embedfleet import data
    from embedfleet.corpus import encode_corpus, score_corpus

__version__ = version("embedfleet")

__all__ = [
    "AsyncClient",
    "Bounds",
    "Client",
    "Embeddings",
    "EmbedfleetError",
    "RankedDocument",
    "Ranking",
    "ServiceError",
    "SpaceMismatch",
    "UnexpectedAnswer",
    "Unreachable",
    "__version__",
    "data",
    "encode_corpus",
    "score_corpus",
]


def __getattr__(name: str) -> Any:
    """Imports what needs Ray when it is first used: that takes seconds."""
    if name in {"encode_corpus", "score_corpus"}:
        return getattr(importlib.import_module("embedfleet.corpus"), name)
    if name == "data":
        return importlib.import_module("embedfleet.data")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

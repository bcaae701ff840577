"""The identity of one model's embedding space; only vectors of one space may be compared."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import lru_cache

from deployments.core.models.spec import ModelSpec


@lru_cache(maxsize=1_024)
def space_id(spec: ModelSpec, dimensions: int | None = None) -> str:
    """Returns a short hash of everything that decides whether two vectors may be compared.

    A reranker's is the identity of its logits, by which clients and replicas know its versions apart.
    Precision is left out on purpose: bfloat16 and float32 vectors of one model are comparable. A
    Matryoshka prefix is a space of its own, with its dimension after a colon.
    """
    prompts = asdict(spec.prompts)
    prompts.pop("default_instruction")  # queries with any instruction search the same documents
    identity = {
        "revision": spec.revision,
        "prompts": prompts,
        "special_tokens": asdict(spec.special_tokens) if spec.special_tokens else None,
        "lowercase": spec.lowercase,
        "pooling": spec.pooling and spec.pooling.value,
        "normalize": spec.normalize,
        "dimension": spec.dimension,
    }
    if spec.pair_tokens is not None:  # so a reranker's versions differ by them, as others by these
        identity["pair_tokens"] = asdict(spec.pair_tokens)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    dimensions = dimensions or spec.output_dimension
    return digest if dimensions == spec.dimension else f"{digest}:{dimensions}"

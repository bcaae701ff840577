"""Compares a model's description and engine with what sentence-transformers makes of the same files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deployments.core.batch import TokenBatch, Vectors, concatenated
from deployments.core.checking.pair_reference import PairReference
from deployments.core.checking.reference import Expected, Reference
from deployments.core.checking.samples import queries, samples
from deployments.core.engine.interface import Engine
from deployments.core.models.description import Description
from deployments.core.models.pairs import tokenize_pairs
from deployments.core.models.prompts import prefix, render
from deployments.core.models.spec import Kind, ModelSpec, Role, Truncation
from deployments.core.models.tokenizer import FastTokenizer
from deployments.core.sparse import SparseVectors

# the least cosine of two vectors of one text, computed in different ways. A wrong recipe is further off.
_AGREES = {"float32": 0.9999}
_AGREES_IN_HALF = 0.99
_LENGTHS_DIFFER = 0.02  # of vectors that are not normalised
# of logits and of the weights of tokens, as a part of the largest of them
_NUMBERS_DIFFER = {"float32": 0.001}
_NUMBERS_DIFFER_IN_HALF = 0.05
# rows of `samples`: the vectors of these texts are compared, the last but one only up to _LONG tokens
_ROWS = (0, 2, 7, 24, 35)
_LONG = 1_024
_SHOWN = 60  # characters of a text in a message


def expectations(
    reference: Reference | PairReference, spec: ModelSpec, longest: int = _LONG
) -> list[Expected]:
    """Returns what sentence-transformers makes of the sample texts, as queries and as documents.

    For a reranker, they are documents of a short and of a long query. Texts of up to ``longest`` tokens
    are computed, longer ones only tokenized.
    """
    texts, is_short = samples(spec.max_tokens), spec.max_tokens <= longest
    rows = [*_ROWS, *([len(texts) - 1] if is_short else [])]
    if isinstance(reference, Reference):
        return [reference.expected(texts, role, rows) for role in Role]
    short, long = queries(spec.max_tokens)
    return [
        reference.expected(short, texts, rows),
        reference.expected(long, texts, rows if is_short else ()),
    ]


def token_difference(description: Description, expected: Sequence[Expected]) -> str | None:
    """Returns in words where the description's token ids are not those expected, or None."""
    tokenizer = description.fast_tokenizer()
    for side in expected:
        batch = _tokenized(description.spec, tokenizer, side)
        for row, (text, ids) in enumerate(zip(side.texts, side.ids, strict=True)):
            found = batch.text(row).tolist()
            if found != list(ids):
                return (
                    f"the {side.role} {_shown(text)} has the token ids {_around(found, ids)}, and "
                    f"{_around(list(ids), found)} in sentence-transformers"
                )
    return None


def _tokenized(spec: ModelSpec, tokenizer: FastTokenizer, side: Expected) -> TokenBatch:
    if side.query is None:
        return tokenizer.tokenize(render(spec, side.texts, side.role), truncate=True).batch
    return tokenize_pairs(spec, tokenizer, side.query, side.texts, Truncation.LONGEST_FIRST).batch


def vector_difference(
    description: Description, engine: Engine, dtype: str, expected: Sequence[Expected]
) -> str | None:
    """Returns in words where the engine's vectors are not those expected, or None.

    ``dtype`` is the engine's precision. Each text is computed alone and beside all others.
    """
    tokenizer = description.fast_tokenizer()
    for side in expected:
        if not side.rows:
            continue
        batch = _batch(description.spec, tokenizer, side)
        alone = [engine.forward(batch.slice(row, row + 1)) for row in range(len(batch))]
        for answer, how in (
            (concatenated(alone), "alone"),
            (engine.forward(batch), "in a batch"),
        ):
            vectors = answer.dense() if isinstance(answer, SparseVectors) else answer
            if problem := _problem(vectors, side, description.spec, dtype):
                return f"{problem} {how}"
    return None


def _batch(spec: ModelSpec, tokenizer: FastTokenizer, side: Expected) -> TokenBatch:
    batch = TokenBatch.from_lists([side.ids[row] for row in side.rows])
    if side.query is None:
        return tokenizer.with_prompts(batch, side.role, prefix(spec, side.role))
    role = list(Role).index(side.role)
    return replace(batch, prompts=np.array([(role, side.splits[r]) for r in side.rows], np.int32))


def _problem(vectors: Vectors, side: Expected, spec: ModelSpec, dtype: str) -> str | None:
    if vectors.shape != side.vectors.shape:
        return f"vectors have {vectors.shape[1]} dimensions, not {side.vectors.shape[1]},"
    if spec.kind is not Kind.EMBEDDER:
        return _worst_number(vectors, side, _NUMBERS_DIFFER.get(dtype, _NUMBERS_DIFFER_IN_HALF))
    return _worst(vectors, side, spec.normalize, _AGREES.get(dtype, _AGREES_IN_HALF))


def _worst_number(numbers: Vectors, side: Expected, most: float) -> str | None:
    off = np.nan_to_num(np.abs(numbers - side.vectors), nan=np.inf)
    worst = np.unravel_index(np.argmax(off), off.shape)
    if off[worst] <= most * max(1.0, float(np.abs(side.vectors).max())):
        return None
    row, column = map(int, worst)
    text, what = side.texts[side.rows[row]], "logit" if side.query else f"weight of token {column}:"
    return f"{_shown(text)} has the {what} {numbers[worst]:.4f}, not {side.vectors[worst]:.4f},"


def _worst(vectors: Vectors, side: Expected, normalized: bool, least: float) -> str | None:
    # such as zeros, where a prompt that is not pooled covers all of a text
    equal = np.array([np.array_equal(*pair) for pair in zip(vectors, side.vectors, strict=True)])
    norms, wanted = (np.linalg.norm(v, axis=1) for v in (vectors, side.vectors))
    cosines = (vectors * side.vectors).sum(axis=1) / np.maximum(norms * wanted, 1e-12)
    cosines[equal] = 1.0
    worst = int(np.argmin(np.nan_to_num(cosines, nan=-1.0)))
    if not cosines[worst] >= least:
        text = side.texts[side.rows[worst]]
        return f"the {side.role} {_shown(text)} has cosine {cosines[worst]:.4f} to its vector"
    ratios = np.where(equal, 1.0, norms / np.maximum(wanted, 1e-12))
    if not normalized and np.abs(ratios - 1).max() > _LENGTHS_DIFFER:
        return f"vectors are {ratios[np.abs(ratios - 1).argmax()]:.3f} times as long"
    return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _around(ids: Sequence[int], others: Sequence[int]) -> str:
    """Returns the ids around the first place where the two differ."""
    place = next(
        (i for i, pair in enumerate(zip(ids, others, strict=False)) if len(set(pair)) > 1), -1
    )
    place = min(len(ids), len(others)) if place < 0 else place
    start, stop = max(0, place - 2), place + 3
    before, after = "…" if start else "", "…" if stop < len(ids) else ""
    return f"[{before}{', '.join(map(str, ids[start:stop]))}{after}] ({len(ids)} in all)"

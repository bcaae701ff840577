"""The texts to encode: docstrings, which every machine has, in three kinds."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from deployments.core.batch import TokenBatch
from deployments.core.models.tokenizer import FastTokenizer
from testing.docstrings import all_docstrings

KINDS = ("short queries", "passages", "mixed long")
_QUERY_TOKENS = (8, 16)
_PASSAGE_TOKENS = (55, 120)
_SHORTEST, _LONGEST = 16, 512  # tokens of mixed texts


@dataclass(frozen=True)
class Case:
    """Texts of one kind, and their token ids, cut to the model's limit."""

    kind: str
    texts: tuple[str, ...]
    batch: TokenBatch

    @property
    def attended(self) -> float:
        """The tokens that a token attends to, on average: those of its text."""
        lengths = self.batch.lengths.astype(np.float64)
        return float((lengths**2).sum() / lengths.sum())


def case(kind: str, tokenizer: FastTokenizer, tokens: int) -> Case:
    """Returns texts of a kind with about ``tokens`` tokens; they repeat if there are too few."""
    texts = texts_of(kind, tokenizer)
    batch = _tokenized(tokenizer, tuple(texts))
    ends = np.cumsum(np.tile(batch.lengths, 1 + tokens // batch.tokens))
    rows = [row % len(texts) for row in range(int(np.searchsorted(ends, tokens)) + 1)]
    return Case(kind, tuple(texts[row] for row in rows), batch.select(rows))


def texts_of(kind: str, tokenizer: FastTokenizer) -> list[str]:
    """Returns all texts of a kind, in a random order that is the same each time.

    Short queries have 8 to 16 tokens, passages 55 to 120. Mixed texts have from 16 tokens to the
    model's limit (512 at most), as many long ones as short ones.
    """
    if kind == "short queries":
        texts = _within(_first_lines(), tokenizer, _QUERY_TOKENS)
    elif kind == "passages":
        texts = _within(all_docstrings(), tokenizer, _PASSAGE_TOKENS)
    else:
        texts = _evenly_long(tokenizer)
    random.Random(0).shuffle(texts)
    return texts


def paragraphs() -> list[str]:
    """Returns passages by their words, 30 to 150, for requests that need no tokenizer."""
    return [text for text in all_docstrings() if 30 <= len(text.split()) <= 150]


@cache
def _tokenized(tokenizer: FastTokenizer, texts: tuple[str, ...]) -> TokenBatch:
    return tokenizer.tokenize(texts, truncate=True).batch


def _first_lines() -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split("\n", 1)[0] for text in all_docstrings()))


def _within(texts: tuple[str, ...], tokenizer: FastTokenizer, bounds: tuple[int, int]) -> list[str]:
    lengths = _tokenized(tokenizer, texts).lengths
    return [t for t, n in zip(texts, lengths, strict=True) if bounds[0] <= n <= bounds[1]]


def _evenly_long(tokenizer: FastTokenizer) -> list[str]:
    """Returns equally many texts from each of eight ranges of length, up to the model's limit."""
    texts = all_docstrings()
    lengths = _tokenized(tokenizer, texts).lengths
    edges = np.linspace(_SHORTEST, min(_LONGEST, int(lengths.max())) + 1, 9)
    ranges = [np.flatnonzero((low <= lengths) & (lengths < high)) for low, high in pairwise(edges)]
    most = min(map(len, ranges))
    dice = random.Random(0)
    return [texts[row] for rows in ranges for row in dice.sample(rows.tolist(), most)]

"""What is encoded: real English texts that every machine has, in three kinds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise

import numpy as np

from deployments.core.batch import TokenBatch
from deployments.core.models.tokenizer import FastTokenizer
from testing.docstrings import all_docstrings

KINDS = ("short queries", "passages", "mixed long")
_QUERY_TOKENS = (8, 16)
_PASSAGE_TOKENS = (55, 120)
_SHORTEST, _LONGEST = 16, 512  # tokens of the mixed ones


@dataclass(frozen=True)
class Case:
    """Texts of one kind, and the same as token ids, cut to the model's limit."""

    kind: str
    texts: tuple[str, ...]
    batch: TokenBatch

    @property
    def attended(self) -> float:
        """The tokens that a token looks at, on average: its own text's."""
        lengths = self.batch.lengths.astype(np.float64)
        return float((lengths**2).sum() / lengths.sum())


def case(kind: str, tokenizer: FastTokenizer, tokens: int) -> Case:
    """Returns about so many ``tokens`` of texts of a kind; they repeat where there are too few."""
    texts = chosen(kind, tokenizer)
    lengths = tokenizer.tokenize(texts, truncate=True).batch.lengths
    ends = np.cumsum(np.tile(lengths, 1 + tokens // int(lengths.sum())))
    count = int(np.searchsorted(ends, tokens)) + 1
    taken = tuple(text for text, _ in zip(cycle(texts), range(count), strict=False))
    return Case(kind, taken, tokenizer.tokenize(taken, truncate=True).batch)


def chosen(kind: str, tokenizer: FastTokenizer) -> list[str]:
    """Returns all texts of a kind, in an order without system that is the same each time.

    Short queries have about 12 tokens, passages 55 to 120; of the mixed ones as many are long as
    are short, from 16 tokens to the model's limit (512 at most).
    """
    if kind == "short queries":
        found = _within(_first_lines(), tokenizer, _QUERY_TOKENS)
    elif kind == "passages":
        found = _within(all_docstrings(), tokenizer, _PASSAGE_TOKENS)
    else:
        found = _evenly_long(tokenizer)
    random.Random(0).shuffle(found)
    return found


def _first_lines() -> list[str]:
    return list(dict.fromkeys(text.split("\n", 1)[0] for text in all_docstrings()))


def _within(texts: Sequence[str], tokenizer: FastTokenizer, bounds: tuple[int, int]) -> list[str]:
    lengths = tokenizer.tokenize(texts, truncate=True).batch.lengths
    return [t for t, n in zip(texts, lengths, strict=True) if bounds[0] <= n <= bounds[1]]


def _evenly_long(tokenizer: FastTokenizer) -> list[str]:
    """Returns as many texts of each of eight ranges of length; the model's limit cuts the longest."""
    texts = all_docstrings()
    lengths = tokenizer.tokenize(texts, truncate=True).batch.lengths
    edges = np.linspace(_SHORTEST, min(_LONGEST, int(lengths.max())) + 1, 9)
    ranges = [np.flatnonzero((low <= lengths) & (lengths < high)) for low, high in pairwise(edges)]
    most = min(map(len, ranges))
    dice = random.Random(0)
    return [texts[row] for rows in ranges for row in dice.sample(rows.tolist(), most)]

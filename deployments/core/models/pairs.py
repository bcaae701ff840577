"""Pairs of texts as a reranker reads them: two texts in one sequence, cut to the model's limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers

from deployments.core.batch import Ids, TokenBatch
from deployments.core.errors import ContextLengthExceeded, UnsupportedModel
from deployments.core.models.prompts import render
from deployments.core.models.reading import Contents, run
from deployments.core.models.spec import ModelSpec, PairTokens, Role, Side, Truncation
from deployments.core.models.tokenizer import FastTokenizer, Tokenized, listed

# a chunk repeats this part of the one before it, so that no sentence is only read in two halves
_OVERLAP = 1 / 8
_DOCUMENT = list(Role).index(Role.DOCUMENT)


@dataclass(frozen=True)
class PairFrames:
    """Puts a query and its documents together, with the special tokens of a model's pairs.

    A batch's ``prompts`` say how many tokens stand before each second text (`TokenBatch`).
    """

    spec: ModelSpec
    tokens: PairTokens

    @property
    def room(self) -> int:
        """The most tokens that both texts of a pair may have together."""
        return self.spec.max_tokens - len(self.tokens)

    def of_rows(self, queries: Contents, query_of: Sequence[int], documents: Contents) -> Tokenized:
        """Returns the pair of each document and the query whose number ``query_of`` has for it.

        Pairs over the model's limit are cut, the longer text first.
        """
        firsts = [np.asarray(ids, np.int32) for ids in queries.ids]
        over, pairs = [], list[tuple[Ids, int]]()
        for row, (query, ids) in enumerate(zip(query_of, documents.ids, strict=True)):
            first, second = firsts[query], np.asarray(ids, np.int32)
            is_partial = query in queries.partial or row in documents.partial
            if is_partial or len(first) + len(second) > self.room:
                over.append(row)
            pairs.append(self._pair(first, second, Truncation.LONGEST_FIRST))
        return Tokenized(_batch(pairs), tuple(over))

    def framed(
        self, query: Contents, documents: Contents, truncation: Truncation | None
    ) -> Tokenized:
        """Returns one pair for each document, cut as ``truncation`` says.

        ``query`` holds one text. Raises ContextLengthExceeded for a pair over the model's limit if
        nothing may be cut, or if the query alone leaves no room.
        """
        first = np.asarray(query.ids[0], np.int32)
        over = tuple(
            row
            for row, document in enumerate(documents.ids)
            if len(first) + len(document) > self.room or row in documents.partial or query.partial
        )
        if over and truncation is None:
            raise self._too_long(query, documents, over)
        if over and truncation is Truncation.ONLY_SECOND and len(first) >= self.room:
            raise self._no_room(query)
        pairs = [self._pair(first, np.asarray(d, np.int32), truncation) for d in documents.ids]
        return Tokenized(_batch(pairs), over)

    def chunked(self, query: Contents, documents: Contents) -> Tokenized:
        """Returns one pair for each chunk of a document, of which none is over the limit.

        Chunks of one document overlap a little; ``owners`` are the documents. Raises
        ContextLengthExceeded if the query leaves them less than half of the room.
        """
        first = np.asarray(query.ids[0], np.int32)
        room = self.room - len(first)
        if query.partial or room < self.room // 2:
            raise self._no_room(query)
        step = max(1, room - max(1, int(room * _OVERLAP)))
        pairs, owners = list[tuple[Ids, int]](), list[int]()
        for row, document in enumerate(documents.ids):
            ids = np.asarray(document, np.int32)
            last = max(1, -(-(len(ids) - room) // step) + 1)
            for start in range(0, last * step, step):
                pairs.append(self._pair(first, ids[start : start + room], None))
                owners.append(row)
        return Tokenized(_batch(pairs), (), tuple(owners))

    def _pair(self, first: Ids, second: Ids, truncation: Truncation | None) -> tuple[Ids, int]:
        """Returns a pair's ids, and how many of them stand before the second text."""
        if truncation is not None:
            lengths = kept(len(first), len(second), self.room, truncation)
            first, second = (self._cut(t, n) for t, n in zip((first, second), lengths, strict=True))
        special = (np.array(ids, np.int32) for ids in _parts(self.tokens))
        start, between, end = special
        split = len(start) + len(first) + len(between)
        return np.concatenate((start, first, between, second, end)), split

    def _cut(self, ids: Ids, count: int) -> Ids:
        return ids[len(ids) - count :] if self.spec.truncation_side is Side.LEFT else ids[:count]

    def _too_long(
        self, query: Contents, documents: Contents, rows: Sequence[int]
    ) -> ContextLengthExceeded:
        if query.partial or query.at_least(0) > self.room // 2:
            return self._no_room(query)
        row, more = rows[0], rows[1:]
        tokens = query.at_least(0) + documents.at_least(row) + len(self.tokens)
        others = f"; too long are also documents {listed(more)}" if more else ""
        return ContextLengthExceeded(
            f"document {row} and the query have at least {tokens} tokens together, but {self.spec.name} "
            f"takes at most {self.spec.max_tokens}{others}; send `truncate`: true to cut them, or "
            "`chunk`: true to score a document by its best part",
            "documents",
        )

    def _no_room(self, query: Contents) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"the query has at least {query.at_least(0)} tokens, but {self.spec.name} takes at most "
            f"{self.spec.max_tokens} for a query and a document together; shorten the query",
            "query",
        )


def joined(
    spec: ModelSpec, query: str, documents: Sequence[str], instruction: str | None = None
) -> list[str]:
    """Returns what a causal reranker reads of each pair, between its special tokens."""
    [before] = render(spec, [query], Role.QUERY, instruction)
    return [before + document for document in render(spec, documents, Role.DOCUMENT)]


def tokenize_pairs(
    spec: ModelSpec,
    tokenizer: FastTokenizer,
    query: str,
    documents: Sequence[str],
    truncation: Truncation | None,
) -> Tokenized:
    """Returns a reranker's pairs of texts at once, as `PairFrames.framed`."""
    if spec.pair_tokens is None:
        return tokenizer.tokenize(joined(spec, query, documents), truncation is not None)
    first, second = (run(tokenizer.read(texts), tokenizer.encode) for texts in ([query], documents))
    return PairFrames(spec, spec.pair_tokens).framed(first, second, truncation)


def tokenize_rows(
    spec: ModelSpec,
    tokenizer: FastTokenizer,
    queries: Sequence[str],
    documents: Sequence[str],
    instruction: str | None = None,
) -> Tokenized:
    """Returns each query with the document beside it, cut to the model's limit.

    A query that stands in several rows is tokenized once.
    """
    numbers = {query: number for number, query in enumerate(dict.fromkeys(queries))}
    query_of = [numbers[query] for query in queries]
    if spec.pair_tokens is None:
        before = render(spec, [*numbers], Role.QUERY, instruction)
        after = render(spec, documents, Role.DOCUMENT)
        texts = [before[query] + text for query, text in zip(query_of, after, strict=True)]
        return tokenizer.tokenize(texts, truncate=True)
    sides = (run(tokenizer.read(texts), tokenizer.encode) for texts in ([*numbers], documents))
    first, second = sides
    return PairFrames(spec, spec.pair_tokens).of_rows(first, query_of, second)


def kept(first: int, second: int, room: int, truncation: Truncation) -> tuple[int, int]:
    """Returns how many tokens of each text stay, as the `tokenizers` library cuts pairs.

    https://github.com/huggingface/tokenizers, ``utils/truncation.rs``
    """
    if first + second <= room:
        return first, second
    if truncation is Truncation.ONLY_SECOND:
        return first, max(0, room - first)
    shorter, longer = sorted((first, second))
    if 2 * shorter >= room:
        shorter, longer = room // 2, room - room // 2
    else:
        longer = room - shorter
    return (shorter, longer) if first <= second else (longer, shorter)


def pair_template_of(tokenizer: tokenizers.Tokenizer) -> PairTokens:
    """Returns the special tokens that the tokenizer's post-processor puts around two texts.

    Raises UnsupportedModel if they stand elsewhere.
    """
    first, second = (tokenizer.encode(t, add_special_tokens=False).ids for t in ("a", "b"))
    framed = tokenizer.encode("a", "b").ids
    one = _place(first, framed, 0)
    two = None if one is None else _place(second, framed, one + len(first))
    if one is None or two is None:
        raise UnsupportedModel(
            f"tokenizer.json turns two texts with the ids {first} and {second} into {framed}, which is "
            "not supported"
        )
    between, last = framed[one + len(first) : two], framed[two + len(second) :]
    return PairTokens(tuple(framed[:one]), tuple(between), tuple(last))


def _place(content: list[int], framed: list[int], start: int) -> int | None:
    places = range(start, len(framed) - len(content) + 1)
    return next((i for i in places if framed[i : i + len(content)] == content), None)


def _parts(tokens: PairTokens) -> tuple[tuple[int, ...], ...]:
    return tokens.first, tokens.between, tokens.last


def _batch(pairs: Sequence[tuple[Ids, int]]) -> TokenBatch:
    ids = TokenBatch.from_arrays([ids for ids, _ in pairs])
    prompts = np.array([(_DOCUMENT, split) for _, split in pairs], np.int32)
    return TokenBatch(ids.ids, ids.lengths, prompts)

"""From texts to token ids. Needs the `tokenizers` library only, so it runs without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import tokenizers

from deployments.core.batch import Ids, TokenBatch
from deployments.core.errors import (
    ContextLengthExceeded,
    EmbedfleetError,
    InvalidRequest,
    UnsupportedModel,
)
from deployments.core.models.reading import (
    Contents,
    Slices,
    Spans,
    most_characters,
    read,
    read_whole,
    run,
    spans,
)
from deployments.core.models.spec import ModelSpec, Role, Side, SpecialTokens
from deployments.core.request import TokenInput

_ROWS_LISTED = 20  # in an error message
_HAS_WORD = re.compile(r"[^\W_]")  # a letter or a digit, of which no tokenizer makes nothing
_SHORT_CHARACTERS = 4_000  # of a single text, for which a thread pool is not worth it


@dataclass(frozen=True)
class Tokenized:
    """Token ids of some texts, and the rows of texts that were cut to the model's limit.

    With ``owners``, a row is a part of the text whose number stands there.
    """

    batch: TokenBatch
    truncated: tuple[int, ...]
    owners: tuple[int, ...] | None = None


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


class FastTokenizer:
    """Tokenizes texts as a model's description says, and adds the special tokens itself.

    The tokenizer's own post-processor is not used for that: e5-mistral's omits the end token, and without
    it last-token pooling gives a different vector. Texts are truncated to leave room for the special
    tokens, so these are always first and last.
    """

    def __init__(self, spec: ModelSpec, serialized: str) -> None:
        """``serialized`` is the JSON of the `tokenizers` library (`Description.tokenizer`).

        Raises UnsupportedModel if it cannot be read, or puts special tokens inside a text.
        """
        self._spec = spec
        self._tokenizer = parse_tokenizer(serialized)
        self._special = spec.special_tokens or template_of(self._tokenizer)
        self._room = spec.max_tokens - len(self._special.first) - len(self._special.last)

    def tokenize(self, texts: Sequence[str], truncate: bool = False) -> Tokenized:
        """Returns the ids of ``texts``, special tokens included.

        Raises ContextLengthExceeded when a text is over the model's limit and ``truncate`` is
        false, InvalidRequest when a text is not valid Unicode.
        """
        return self.framed(run(self.read(texts), self.encode), truncate)

    def with_prompts(self, batch: TokenBatch, role: Role, prompt: str) -> TokenBatch:
        """Returns the batch with the role of its texts and the length of their prompt, for a model that
        needs them (`ModelSpec.needs_prompts`); for any other the batch as it is.
        """
        if not self._spec.needs_prompts:
            return batch
        lengths = np.minimum(batch.lengths, self._prompt_tokens(prompt))
        roles = np.full_like(lengths, list(Role).index(role))
        return replace(batch, prompts=np.stack((roles, lengths), axis=1))

    def _prompt_tokens(self, prompt: str) -> int:
        """Counts as sentence-transformers does: the prompt alone, less a special token at its end."""
        if not prompt:
            return 0
        ids = self.tokenize([prompt], truncate=True).batch.ids
        ends_special = bool(self._special.last) or int(ids[-1]) in self._added_special_ids
        return len(ids) - ends_special

    @cached_property
    def _added_special_ids(self) -> frozenset[int]:
        added = json.loads(self._tokenizer.to_str())["added_tokens"]
        return frozenset(token["id"] for token in added if token["special"])

    def read(self, texts: Sequence[str]) -> Slices:
        """Yields slices of ``texts`` for `encode`, takes their ids, and returns what `framed` takes.

        Raises InvalidRequest when a text is not valid Unicode.
        """
        _refuse_surrogates(texts)
        return read(texts, self._room, self._keeps_end)

    def read_whole(self, texts: Sequence[str]) -> Slices:
        """As `read`, for texts whose ends count whatever their length."""
        _refuse_surrogates(texts)
        return read_whole(texts)

    def encode(self, texts: list[str]) -> list[Ids]:
        """Returns the ids of one slice, without special tokens."""
        if len(texts) == 1 and len(texts[0]) <= _SHORT_CHARACTERS:
            encodings = [self._tokenizer.encode(texts[0], add_special_tokens=False)]
        else:  # other threads can run meanwhile, which `encode` does not allow
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def without_tokens(self, texts: Sequence[str]) -> list[int]:
        """Returns the rows of texts of which the model would read nothing: white space, or characters
        that the tokenizer drops.
        """
        # a search holds the interpreter, so it does not go through a whole long text
        suspects = [
            row for row, t in enumerate(texts) if not _HAS_WORD.search(t, 0, _SHORT_CHARACTERS)
        ]
        if not suspects:
            return []
        rest = [row for row in suspects if not _is_blank(texts[row])]
        contents = run(read([texts[row] for row in rest], self._room), self.encode)
        dropped = {row for row, ids in zip(rest, contents.ids, strict=True) if not len(ids)}
        return [row for row in suspects if row in dropped or _is_blank(texts[row])]

    def longest(self, contents: Contents) -> int:
        """Returns the tokens of the longest text, special tokens included; if it is over the limit,
        maybe only a lower bound.
        """
        special = self._spec.max_tokens - self._room
        return special + max(map(contents.at_least, range(len(contents.ids))), default=0)

    def spans(self, texts: Sequence[str]) -> list[Spans]:
        """Returns the positions of each text's tokens, without special tokens and without a limit.

        Raises InvalidRequest when a text is not valid Unicode.
        """
        _refuse_surrogates(texts)
        return spans(texts, self._spans)

    def _spans(self, texts: list[str]) -> list[Spans]:
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [Spans.of(encoding.offsets, encoding.word_ids) for encoding in encodings]

    @property
    def words(self) -> int:
        """The size of the vocabulary, without tokens that were added to it."""
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    @property
    def room(self) -> int:
        """The most tokens that a text and its prompt may have together, without special tokens."""
        return self._room

    def framed(self, contents: Contents, truncate: bool = False) -> Tokenized:
        """Returns the texts with their special tokens, cut to the limit. Raises as `tokenize`."""
        over = tuple(
            r for r, c in enumerate(contents.ids) if len(c) > self._room or r in contents.partial
        )
        if over and not truncate:
            raise self._too_long(over, contents)
        first, last = (np.array(ids, np.int32) for ids in (self._special.first, self._special.last))
        framed = [np.concatenate((first, self._cut(ids), last)) for ids in contents.ids]
        batch = TokenBatch.from_arrays(framed)
        if 0 in batch.lengths:
            raise InvalidRequest("a text is empty after tokenizing; send a non-empty text", "input")
        return Tokenized(batch, over)

    def _cut(self, ids: Sequence[int] | Ids) -> Sequence[int] | Ids:
        return ids[max(0, len(ids) - self._room) :] if self._keeps_end else ids[: self._room]

    @property
    def _keeps_end(self) -> bool:
        return self._spec.truncation_side is Side.LEFT

    def accept_ids(self, tokens: TokenInput, truncate: bool = False) -> Tokenized:
        """Returns the token ids that the caller made with this model's tokenizer.

        Raises InvalidRequest if they come from another tokenizer, an id is not in the vocabulary or
        special tokens are missing; ContextLengthExceeded as `tokenize` does.
        """
        if tokens.tokenizer not in (self._spec.name, self._spec.repo):
            raise InvalidRequest(
                f"{self._spec.name} cannot read token ids of the tokenizer {tokens.tokenizer!r}; "
                f"send text, or ids of {self._spec.repo}",
                "tokenizer",
            )
        ids = [self._content_of(row, ids) for row, ids in enumerate(tokens.rows)]
        return self.framed(Contents(ids), truncate)

    def _content_of(self, row: int, ids: Sequence[int]) -> Sequence[int]:
        first, last = self._special.first, self._special.last
        stop = len(ids) - len(last)
        if tuple(ids[: len(first)]) != first or tuple(ids[stop:]) != last or stop < len(first):
            raise InvalidRequest(
                f"the token ids of text {row} must start with {list(first)} and end with {list(last)}",
                "input",
            )
        if max(ids, default=0) >= self._tokenizer.get_vocab_size() or min(ids, default=0) < 0:
            raise InvalidRequest(
                f"text {row} has token ids outside the vocabulary of {self._spec.name}", "input"
            )
        return ids[len(first) : stop]

    def _too_long(self, rows: Sequence[int], contents: Contents) -> ContextLengthExceeded:
        row, spec = rows[0], self._spec
        where = f"text {row}" if len(contents.ids) > 1 else "the text"
        others = f"; too long are also texts {listed(rows[1:])}" if rows[1:] else ""
        return ContextLengthExceeded(
            f"{where} {self._length(row, contents)}, but {spec.name} takes at most {spec.max_tokens}"
            f"{others}; shorten it, send `truncate`: true, or choose a model with a longer context",
            "input",
        )

    def _length(self, row: int, contents: Contents) -> str:
        tokens = contents.at_least(row) + self._spec.max_tokens - self._room
        if row not in contents.partial:
            return f"has {tokens} tokens"
        if tokens > self._spec.max_tokens:
            return f"has at least {tokens} tokens"
        return f"has over {most_characters(self._room)} characters, which are not all read"


def listed(rows: Sequence[int]) -> str:
    """Returns rows as words; of many, the first."""
    shown = ", ".join(map(str, rows[:_ROWS_LISTED]))
    return shown if len(rows) <= _ROWS_LISTED else f"{shown} and {len(rows) - _ROWS_LISTED} more"


def template_of(tokenizer: tokenizers.Tokenizer) -> SpecialTokens:
    """Returns the special tokens that the tokenizer's own post-processor adds around a text."""
    content = tokenizer.encode("a", add_special_tokens=False).ids
    framed = tokenizer.encode("a").ids
    for start in range(len(framed) - len(content) + 1):
        stop = start + len(content)
        if framed[start:stop] == content:
            return SpecialTokens(tuple(framed[:start]), tuple(framed[stop:]))
    raise UnsupportedModel(
        f"tokenizer.json turns the ids {content} into {framed}: special tokens inside a text are not "
        "supported"
    )


def parse_tokenizer(serialized: str) -> tokenizers.Tokenizer:
    """Returns a tokenizer from its JSON, without the truncation and padding that it may set.

    Raises UnsupportedModel if the JSON is no tokenizer's.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_str(serialized)
    except Exception as error:  # the library raises bare Exception
        raise UnsupportedModel(f"tokenizer.json cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _refuse_surrogates(texts: Sequence[str]) -> None:
    rows = [row for row, text in enumerate(texts) if not text.isascii() and _has_surrogate(text)]
    if rows:
        others = f"; so do texts {listed(rows[1:])}" if rows[1:] else ""
        raise InvalidRequest(
            f"text {rows[0]} is not valid Unicode: it contains half of a surrogate pair{others}; "
            "re-encode it",
            "input",
        )


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def out_of_vocabulary(batch: TokenBatch, vocabulary: int) -> dict[int, EmbedfleetError]:
    """Returns an error for each row with an id outside the vocabulary, which would kill a GPU process."""
    outside = (batch.ids < 0) | (batch.ids >= vocabulary)
    if not outside.any():
        return {}
    rows = np.searchsorted(batch.offsets, np.flatnonzero(outside), side="right") - 1
    error = InvalidRequest(f"token ids must be in [0, {vocabulary})", "input")
    return dict.fromkeys(np.unique(rows).tolist(), error)

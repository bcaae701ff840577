"""Bounds and an estimate of a text's token count, without a tokenizer."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_SPECIAL_TOKENS = 4  # the most that known models add to a text
_BYTES_PER_TOKEN = 4
_CHARACTERS_PER_WORD = 16
_CHUNK = 64  # characters that are decomposed at once


def upper_bound(text: str) -> int:
    """Returns an upper bound of the text's tokens, special tokens included.

    No tokenizer makes more tokens than there are bytes. Some decompose characters first, which makes
    a few of them longer.
    """
    size = len(text)
    if not text.isascii():
        size = max(_bytes(text), _decomposed_bytes(text))
    return size + _SPECIAL_TOKENS


def lower_bound(text: str, limit: int) -> int:
    """Returns a lower bound of the text's tokens: its words, since no token spans two.

    More than ``limit`` words are not counted exactly.
    """
    return len(text[: _CHARACTERS_PER_WORD * limit].split())


def estimate_tokens(texts: Iterable[str], limit: int | None = None) -> int:
    """Returns roughly how many tokens the texts have together, to predict their cost.

    Texts over ``limit`` tokens count as cut.
    """
    sizes = (_bytes(text) // _BYTES_PER_TOKEN + _SPECIAL_TOKENS for text in texts)
    return sum(sizes) if limit is None else sum(min(limit, size) for size in sizes)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _decomposed_bytes(text: str) -> int:
    """Returns the bytes of the text's NFKD form.

    They do not depend on the order of its characters, so it is decomposed in chunks. The whole at once
    takes quadratic time, because `unicodedata` sorts each run of combining marks.
    """
    chunks = (text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK))
    return sum(_bytes(unicodedata.normalize("NFKD", chunk)) for chunk in chunks)

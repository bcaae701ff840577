"""Bounds and an estimate of a text's token count, without a tokenizer."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_SPECIAL_TOKENS = 4  # the most that known models add to a text
_BYTES_PER_TOKEN = 4


def upper_bound(text: str) -> int:
    """Returns an upper bound of the text's tokens, special tokens included.

    No tokenizer makes more tokens than there are bytes. Some decompose characters first, which makes
    a few of them longer.
    """
    size = len(text)
    if not text.isascii():
        size = max(_bytes(text), _bytes(unicodedata.normalize("NFKD", text)))
    return size + _SPECIAL_TOKENS


def lower_bound(text: str) -> int:
    """Returns a lower bound of the text's tokens: its words, since no token spans two."""
    return len(text.split())


def estimate_tokens(texts: Iterable[str]) -> int:
    """Returns roughly how many tokens the texts have together, to predict their cost."""
    return sum(_bytes(text) // _BYTES_PER_TOKEN + _SPECIAL_TOKENS for text in texts)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))

"""How long texts are without a tokenizer: a bound that no tokenizer exceeds, and a rough count."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_SPECIAL_TOKENS = 4  # at most, before and after a text, in the models that we know
_BYTES_PER_TOKEN = 4


def upper_bound(text: str) -> int:
    """Returns a number of tokens that the text cannot exceed, special tokens included.

    No tokenizer makes more tokens than there are bytes; but some decompose characters first, and a
    few of those grow.
    """
    size = len(text)
    if not text.isascii():
        size = max(_bytes(text), _bytes(unicodedata.normalize("NFKD", text)))
    return size + _SPECIAL_TOKENS


def lower_bound(text: str) -> int:
    """Returns a number of tokens that the text has at least: its words, which no token joins."""
    return len(text.split())


def estimate_tokens(texts: Iterable[str]) -> int:
    """Returns about how many tokens some texts have, to foresee what they cost."""
    return sum(_bytes(text) // _BYTES_PER_TOKEN + _SPECIAL_TOKENS for text in texts)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))

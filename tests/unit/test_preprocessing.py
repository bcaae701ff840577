"""Texts behind their prompts, tokenized in the loop or beside it."""

from __future__ import annotations

import threading

import pytest

from deployments.embedding.batch import TokenBatch
from deployments.embedding.errors import InvalidRequest
from deployments.embedding.models.catalog import CATALOG
from deployments.embedding.models.model import Role
from deployments.embedding.request import EncodeRequest, TokenInput
from deployments.embedding.text.tokenizer import Tokenized
from deployments.preprocessing import Preprocessor

SPEC = CATALOG["e5-small"]


class FakeTokenizer:
    """The `Tokenizer` protocol: one id a text; keeps what it was given, and in which thread."""

    def __init__(self):
        self.given, self.threads = [], []

    def encode(self, texts, truncate=False):
        return self._keep(tuple(texts), truncate)

    def accept(self, tokens, truncate=False):
        return self._keep(tokens, truncate)

    def _keep(self, given, truncate):
        self.given.append((given, truncate))
        self.threads.append(threading.current_thread())
        return Tokenized(TokenBatch.from_lists([[1]]), ())


@pytest.fixture
def tokenizer():
    return FakeTokenizer()


@pytest.mark.parametrize(
    ("role", "prompt"), [(Role.QUERY, "query: "), (Role.DOCUMENT, "passage: ")]
)
@pytest.mark.parametrize("truncate", [True, False])
async def test_texts_are_read_behind_their_prompt(tokenizer, role, prompt, truncate):
    await Preprocessor(SPEC, tokenizer).tokenized(
        EncodeRequest(("a", "b"), role, truncate=truncate)
    )
    assert tokenizer.given == [((f"{prompt}a", f"{prompt}b"), truncate)]


async def test_token_ids_are_taken_as_they_are(tokenizer):
    tokens = TokenInput("e5-small", ((1, 2),))
    await Preprocessor(SPEC, tokenizer).tokenized(EncodeRequest(tokens, Role.QUERY, truncate=True))
    assert tokenizer.given == [(tokens, True)]


@pytest.mark.parametrize(
    ("texts", "inline"),
    [(("a",), True), (("a" * 4_000,), True), (("a" * 4_001,), False), (("a" * 9,) * 999, False)],
)
async def test_long_texts_do_not_hold_the_event_loop(tokenizer, texts, inline):
    await Preprocessor(SPEC, tokenizer).tokenized(EncodeRequest(texts))
    assert (tokenizer.threads[0] is threading.current_thread()) == inline


async def test_an_instruction_without_a_place_is_refused(tokenizer):
    with pytest.raises(InvalidRequest, match="takes no instruction"):
        await Preprocessor(SPEC, tokenizer).tokenized(
            EncodeRequest(("a",), Role.QUERY, "Find a duck")
        )
    assert tokenizer.given == []

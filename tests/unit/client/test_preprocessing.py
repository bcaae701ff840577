"""Texts behind their prompts, tokenized in the loop or beside it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from deployments.client import preprocessing
from deployments.client.preprocessing import Preprocessor
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import InvalidRequest
from deployments.core.models.catalog import CATALOG
from deployments.core.models.reading import read
from deployments.core.models.spec import Role
from deployments.core.models.tokenizer import Tokenized
from deployments.core.request import EncodeRequest, TokenInput

SPEC = CATALOG["e5-small"]
INSTRUCT = CATALOG["multilingual-e5-large-instruct"]


class FakeTokenizer:
    """One id a text; keeps what it was given, and in which thread it was tokenized."""

    def __init__(self):
        self.given, self.threads = [], []

    def without_tokens(self, texts):
        return []

    def read(self, texts):
        self.texts = tuple(texts)
        return read(texts, SPEC.max_tokens)

    def encode(self, texts):
        self.threads.append(threading.current_thread())
        return [[1] for _ in texts]

    def framed(self, contents, truncate=False):
        return self._keep(self.texts, truncate)

    def with_prompts(self, batch, role, prompt):
        return batch

    def accept_ids(self, tokens, truncate=False):
        return self._keep(tokens, truncate)

    def _keep(self, given, truncate):
        self.given.append((given, truncate))
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
    [(("a",), True), (("a" * 3_991,), True), (("a" * 3_992,), False), (("a" * 9,) * 999, False)],
)
async def test_long_texts_do_not_hold_the_event_loop(tokenizer, texts, inline):
    await Preprocessor(SPEC, tokenizer).tokenized(EncodeRequest(texts))  # each behind "passage: "
    assert (tokenizer.threads[0] is threading.current_thread()) == inline


async def test_nor_does_a_long_instruction_before_short_texts(tokenizer):
    asked = EncodeRequest(("a",) * 50, Role.QUERY, "Find a duck. " * 10)
    await Preprocessor(INSTRUCT, tokenizer).tokenized(asked)
    assert tokenizer.threads[0] is not threading.current_thread()


async def test_token_ids_with_an_instruction_are_refused(tokenizer):
    tokens = TokenInput(INSTRUCT.name, ((1, 2),))
    asked = EncodeRequest(tokens, Role.QUERY, "Find a duck")
    with pytest.raises(InvalidRequest, match="prompt included: leave `instruction` out"):
        await Preprocessor(INSTRUCT, tokenizer).tokenized(asked)
    assert tokenizer.given == []


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (("a",), INSTRUCT.prompts.default_instruction),
        (TokenInput(INSTRUCT.name, ((1, 2),)), None),
    ],
)
async def test_the_answer_tells_the_instruction_that_was_rendered(tokenizer, texts, told):
    asked = EncodeRequest(texts, Role.QUERY)
    preprocessor = Preprocessor(INSTRUCT, tokenizer)
    tokenized = await preprocessor.tokenized(asked)
    reply = Encoded(np.ones((1, INSTRUCT.dimension), np.float32), 0.0, 0.0)
    assert (await preprocessor.finished(asked, tokenized, [reply])).instruction == told


@pytest.mark.parametrize(("rows", "inline"), [(260, True), (261, False)])
async def test_many_numbers_do_not_hold_the_event_loop(monkeypatch, tokenizer, rows, inline):
    threads = []

    def finished(vectors, dimensions, normalize):
        threads.append(threading.current_thread())
        return vectors

    monkeypatch.setattr(preprocessing, "finished", finished)
    preprocessor, asked = Preprocessor(SPEC, tokenizer), EncodeRequest(("a",))
    parts = [np.ones((n, SPEC.dimension), np.float32) for n in (rows, rows)]
    replies = [Encoded(part, 0.0, 0.0) for part in parts]
    answer = await preprocessor.finished(asked, await preprocessor.tokenized(asked), replies)
    assert len(answer.vectors) == 2 * rows
    assert (threads == [threading.current_thread()]) == inline


async def test_an_instruction_without_a_place_is_refused(tokenizer):
    with pytest.raises(InvalidRequest, match="takes no instruction"):
        await Preprocessor(SPEC, tokenizer).tokenized(
            EncodeRequest(("a",), Role.QUERY, "Find a duck")
        )
    assert tokenizer.given == []


async def test_texts_that_hold_nothing_are_refused_whatever_their_prompt(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "without_tokens", lambda texts: [1, 3])
    with pytest.raises(InvalidRequest, match=r"text 1 holds nothing.* texts 3") as refused:
        await Preprocessor(SPEC, tokenizer).tokenized(EncodeRequest(("a", " ", "b", "\u200b")))
    assert refused.value.param == "input"
    assert tokenizer.given == []

"""A handle with scripted answers, and other parts that tests of the client need."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
from ray.exceptions import RayActorError

from deployments.client.preprocessing import Preprocessor
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import EmbedfleetError
from deployments.core.models.catalog import CATALOG
from deployments.core.models.reading import read
from deployments.core.models.tokenizer import Tokenized

SPEC = CATALOG["e5-small"]
LOST = RayActorError()
NEVER = object()


class Numbers:
    """A tokenizer for which a text is its number of tokens, as in "passage: 12"."""

    def without_tokens(self, texts):
        return []

    def read(self, texts):
        return read(texts, room=512)

    def encode(self, texts):
        counts = [int(text.split()[-1]) for text in texts]
        return [[count] * count for count in counts]

    def framed(self, contents, truncate=False):
        return Tokenized(TokenBatch.from_lists(contents.ids), (0,))

    def with_prompts(self, batch, role, prompt):
        return batch

    def accept_ids(self, tokens, truncate=False):
        raise NotImplementedError


class Reply:
    """Awaited like a handle's response; knows whether it was cancelled."""

    def __init__(self, outcome):
        self.outcome, self.cancelled = outcome, False

    def __await__(self):
        if self.outcome is NEVER:
            yield from asyncio.Event().wait().__await__()
        if isinstance(self.outcome, Exception) and not isinstance(self.outcome, EmbedfleetError):
            raise self.outcome
        return self.outcome

    def cancel(self):
        self.cancelled = True


class Replica:
    """The handle of one deployment: answers as scripted, then with each text's first id.

    Nobody listens for a connection, so all calls go by handle.
    """

    _router = None

    def __init__(self, *script):
        self.script, self.calls, self.replies, self.terms = list(script), [], [], []
        self.encode = self

    def remote(self, ids, lengths, lane, timeout_s, terms):
        self.calls.append((lengths.tolist(), lane, timeout_s))
        self.terms.append(terms)
        self.replies.append(Reply(self.script.pop(0) if self.script else answer(ids, lengths)))
        return self.replies[-1]


class NothingBegun:
    """The `Record` protocol: replicas die before they come to a trial."""

    def __init__(self, model):
        pass

    async def last_begun(self, trial):
        return None

    async def blocked(self, texts):
        return []


def answer(ids, lengths):
    batch = TokenBatch(ids, lengths)
    vectors = np.ones((len(batch), SPEC.dimension), np.float32)
    vectors[:, 0] = [batch.text(row)[0] for row in range(len(batch))]
    return Encoded(vectors, 0.5, 0.25)


def load_numbers(config, space=None):
    """As `load_preprocessor`."""
    return Preprocessor(spec_of(config), Numbers())


def spec_of(config):
    return replace(SPEC, revision=config.revision) if config.revision else SPEC

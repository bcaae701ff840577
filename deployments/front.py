"""What stands before a model's replicas: its description and its tokenizer, without its weights."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from deployments.config import ModelConfig
from deployments.embedding.loading import find_model
from deployments.embedding.model import ModelSpec
from deployments.embedding.prompts import render
from deployments.embedding.request import EncodeRequest, TokenInput
from deployments.embedding.tokenizer import FastTokenizer, Tokenized

# below this, a hop to another thread costs more than the tokenizing
_INLINE_CHARACTERS = 4_000


@dataclass(frozen=True)
class Front:
    """A model's description and tokenizer."""

    spec: ModelSpec
    tokenizer: FastTokenizer

    async def tokenized(self, request: EncodeRequest) -> Tokenized:
        """Returns a request's texts as token ids, behind their prompts.

        Raises InvalidRequest or ContextLengthExceeded. Long texts are tokenized in a thread, so
        that the event loop goes on.
        """
        texts = request.texts
        if not isinstance(texts, TokenInput) and sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return self._tokenize(request)
        return await asyncio.to_thread(self._tokenize, request)

    def _tokenize(self, request: EncodeRequest) -> Tokenized:
        if isinstance(request.texts, TokenInput):
            return self.tokenizer.accept(request.texts, request.truncate)
        texts = render(self.spec, request.texts, request.role, request.instruction)
        return self.tokenizer.encode(texts, request.truncate)


def load_front(config: ModelConfig) -> Front:
    """Reads, or fetches, a model's description and tokenizer. Raises as `find_model` does."""
    files = find_model(config.name, config.path, config.revision, weights=False)
    return Front(files.spec, FastTokenizer(files.spec, files.folder))

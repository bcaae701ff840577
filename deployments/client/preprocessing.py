"""What stands before a model's replicas: its description and its tokenizer, without its weights."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from deployments.config.schema import ModelConfig
from deployments.core.awaiting import aside
from deployments.core.batch import Encoded, Ids, concatenated
from deployments.core.errors import InvalidRequest
from deployments.core.models.describing import described
from deployments.core.models.description import Description
from deployments.core.models.loading import find_model
from deployments.core.models.pairs import PairFrames, joined
from deployments.core.models.prompts import effective_instruction, prefix, render
from deployments.core.models.reading import Contents, Slices, run, run_async
from deployments.core.models.space import space_id
from deployments.core.models.spec import ModelSpec, Role, refuse_other_kind
from deployments.core.models.token_bounds import lower_bound, upper_bound
from deployments.core.models.tokenizer import FastTokenizer, Tokenized, listed
from deployments.core.request import (
    Embeddings,
    EncodeRequest,
    Scoring,
    TokenInput,
    check_dimensions,
)
from deployments.core.sparse import SparseVectors
from deployments.core.vectors import INLINE_NUMBERS, finished, scores
from deployments.wire.descriptions import publish, published

# below this, a hop to another thread costs more than the tokenizing
_INLINE_CHARACTERS = 4_000
_FIRST_LOOK = 8
# few, since each slice that is tokenized at the same time takes its share of the memory
_THREADS = ThreadPoolExecutor(2, "tokenize")


@dataclass(frozen=True)
class Preprocessor:
    """A model's description and tokenizer."""

    spec: ModelSpec
    tokenizer: FastTokenizer

    async def tokenized(self, request: EncodeRequest) -> Tokenized:
        """Returns a request's texts as token ids: behind their prompts, or as pairs with a query.

        Raises WrongKind, another InvalidRequest, or ContextLengthExceeded.
        """
        refuse_other_kind(self.spec, request.kind)
        if request.scoring is not None:
            return await self._pairs(request, request.scoring)
        if isinstance(request.texts, TokenInput):
            return await asyncio.to_thread(self._accept, request, request.texts)
        await self._refuse_nothing(request.texts)
        texts = render(self.spec, request.texts, request.role, request.instruction)
        contents = await self._read(texts)
        framed = self.tokenizer.framed
        tokenized = await aside(_are_long(texts), framed, contents, request.truncate)
        if not self.spec.needs_prompts:
            return tokenized
        prompt = prefix(self.spec, request.role, request.instruction)
        batch = self.tokenizer.with_prompts(tokenized.batch, request.role, prompt)
        return replace(tokenized, batch=batch)

    async def _pairs(self, request: EncodeRequest, scoring: Scoring) -> Tokenized:
        """Returns a pair for each text, or for each part of it."""
        assert not isinstance(request.texts, TokenInput)
        effective_instruction(self.spec, Role.QUERY, request.instruction)
        texts = [scoring.query, *request.texts]
        await self._refuse_nothing([scoring.query], "query")
        await self._refuse_nothing(request.texts, "documents")
        if self.spec.question is not None:
            return await self._questions(request, scoring)
        read = self.tokenizer.read_whole if scoring.chunk else self.tokenizer.read
        query = await self._ids(self.tokenizer.read([scoring.query]), [scoring.query])
        documents = await self._ids(read(request.texts), request.texts)
        if scoring.chunk:
            return await aside(_are_long(texts), self._frames.chunked, query, documents)
        truncation = scoring.truncation if request.truncate else None
        return await aside(_are_long(texts), self._frames.framed, query, documents, truncation)

    async def _questions(self, request: EncodeRequest, scoring: Scoring) -> Tokenized:
        """Returns what a causal reranker reads; what is too long is cut at its document's end."""
        assert not isinstance(request.texts, TokenInput)
        if scoring.chunk:
            raise InvalidRequest(
                f"{self.spec.name} reads query and document as one text and does not take them in parts; "
                "send `truncate`: true, or split the documents",
                "chunk",
            )
        texts = joined(self.spec, scoring.query, request.texts, request.instruction)
        contents = await self._read(texts)
        return await aside(_are_long(texts), self.tokenizer.framed, contents, request.truncate)

    @cached_property
    def _frames(self) -> PairFrames:
        assert self.spec.pair_tokens is not None
        return PairFrames(self.spec, self.spec.pair_tokens)

    async def _refuse_nothing(self, texts: Sequence[str], field: str = "input") -> None:
        """Raises InvalidRequest if there is nothing in a text but its prompt."""
        rows = await aside(_are_long(texts), self.tokenizer.without_tokens, texts)
        if rows:
            others = f", and neither do texts {listed(rows[1:])}" if rows[1:] else ""
            raise InvalidRequest(
                f"text {rows[0]} holds nothing that {self.spec.name} reads, only white space or "
                f"characters that its tokenizer drops{others}; leave it out",
                field,
            )

    async def _read(self, texts: Sequence[str]) -> Contents:
        """Tokenizes long texts in threads, slice by slice: the event loop goes on, and each request
        has its turn.
        """
        return await self._ids(self.tokenizer.read(texts), texts)

    async def _ids(self, slices: Slices, texts: Sequence[str]) -> Contents:
        if not _are_long(texts):
            return run(slices, self.tokenizer.encode)
        loop = asyncio.get_running_loop()

        async def encode(part: list[str]) -> list[Ids]:
            return await loop.run_in_executor(_THREADS, self.tokenizer.encode, part)

        return await run_async(slices, encode)

    async def finished(
        self, request: EncodeRequest, tokenized: Tokenized, replies: Sequence[Encoded]
    ) -> Embeddings:
        """Returns a request's answer from those of its calls. Raises the first error of a text."""
        is_large = sum(reply.vectors.size for reply in replies) > INLINE_NUMBERS
        return await aside(is_large, self._finished, request, tokenized, replies)

    def _finished(
        self, request: EncodeRequest, tokenized: Tokenized, replies: Sequence[Encoded]
    ) -> Embeddings:
        for reply in replies:
            if reply.errors:
                raise next(iter(reply.errors.values()))
        spec = self.spec
        dimensions = check_dimensions(spec, request.dimensions)
        normalize = spec.normalize if request.normalize is None else request.normalize
        vectors = concatenated([reply.vectors for reply in replies])
        sparse = vectors if isinstance(vectors, SparseVectors) else None
        if isinstance(vectors, SparseVectors):
            vectors = np.empty((len(vectors), 0), np.float32)
        elif request.scoring is not None:
            vectors = scores(vectors, spec.activation, request.scoring.raw, tokenized.owners)
        return Embeddings(
            vectors=finished(vectors, dimensions, normalize),
            sparse=sparse,
            model=spec.name,
            space=space_id(spec, dimensions),
            tokens=tokenized.batch.tokens,
            truncated=tokenized.truncated,
            instruction=self._instruction(request),
            queued_s=max(reply.queued_s for reply in replies),
            computed_s=sum(reply.computed_s for reply in replies),
        )

    async def longest(self, texts: Sequence[str], role: Role, instruction: str | None) -> int:
        """Returns the tokens of the longest text behind its prompt, or a bound of them.

        Where bytes show that all texts are within the limit, or words that one is not, that number
        is enough; else the texts are tokenized. Raises InvalidRequest for what is not Unicode.
        """
        given = instruction if self.spec.takes_instruction and role is Role.QUERY else None
        return await self._longest(texts, prefix(self.spec, role, given), self.spec.max_tokens)

    async def longest_pair(self, query: str, documents: Sequence[str]) -> int:
        """Returns the tokens of the longest document and the query together, or a bound, as `longest`."""
        if self.spec.question is not None:
            [head] = joined(self.spec, query, [""])
            return await self._longest(documents, head, self.spec.max_tokens)
        alone = self.spec.max_tokens - self.tokenizer.room
        before = await self._counted([query]) + len(self._frames.tokens) - 2 * alone
        return before + await self._longest(documents, "", self.spec.max_tokens - before)

    async def _longest(self, texts: Sequence[str], head: str, limit: int) -> int:
        bounds = [_bound(head, text, limit) for text in texts]
        if max(bounds) <= limit:
            return max(bounds)
        if (words := max(lower_bound(text, limit) for text in texts)) > limit:
            return words
        # the longest in bytes are tokenized first: they mostly show that the model is out of it
        order = sorted(range(len(texts)), key=lambda row: -bounds[row])
        first = [head + texts[row] for row in order[:_FIRST_LOOK]]
        count = await self._counted(first)
        if count > limit:
            return count
        rest = [row for row in order[_FIRST_LOOK:] if bounds[row] > limit]
        return max(count, await self._counted([head + texts[row] for row in rest]) if rest else 0)

    async def _counted(self, texts: Sequence[str]) -> int:
        return self.tokenizer.longest(await self._read(texts))

    def _accept(self, request: EncodeRequest, texts: TokenInput) -> Tokenized:
        if request.instruction:
            raise InvalidRequest(
                "token ids are whole sequences, prompt included: leave `instruction` out, or send "
                "texts",
                "instruction",
            )
        if self.spec.needs_prompts and prefix(self.spec, request.role):
            raise InvalidRequest(
                f"token ids do not say where a prompt ends, which {self.spec.name} has to know; send "
                "texts",
                "input",
            )
        tokenized = self.tokenizer.accept_ids(texts, request.truncate)
        batch = self.tokenizer.with_prompts(tokenized.batch, request.role, prompt="")
        return replace(tokenized, batch=batch)

    def _instruction(self, request: EncodeRequest) -> str | None:
        if isinstance(request.texts, TokenInput):
            return None
        role = Role.QUERY if request.scoring else request.role
        return effective_instruction(self.spec, role, request.instruction)


def _are_long(texts: Sequence[str]) -> bool:
    return sum(map(len, texts)) > _INLINE_CHARACTERS


def _bound(head: str, text: str, limit: int) -> int:
    """Returns an upper bound of a text's tokens behind its prompt; over the limit, it is a rough one."""
    characters = len(head) + len(text)
    return characters if characters > limit else upper_bound(head + text)


def load_preprocessor(config: ModelConfig, space: str | None = None) -> Preprocessor:
    """Returns what prepares texts for the model of this config, from its published description.

    ``space`` is the embedding space that a replica has; without it, the config's latest one is meant. If
    none is published, the model's files are read, or fetched. Raises as `find_model` and `described`.
    """
    description = published(config, space) or _described_here(config)
    return Preprocessor(description.spec, description.fast_tokenizer())


def _described_here(config: ModelConfig) -> Description:
    files = find_model(config.name, config.path, config.revision, config.overrides, weights=False)
    description = described(files)
    publish(config, description, is_loaded=False)
    return description

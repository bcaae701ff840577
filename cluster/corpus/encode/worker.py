"""One CPU actor of Ray Data: reads a part, has it encoded by the replicas, commits it."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np
from ray import serve
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from cluster.corpus.dedupe import digests
from cluster.corpus.encode.flow import Flow, Slots, call_tokens, share
from cluster.corpus.errors import JobError
from cluster.corpus.plan.inputs import check_unchanged
from cluster.corpus.plan.parts import Part
from cluster.corpus.prepare.documents import Documents, check_chunk, prepare
from cluster.corpus.progress import Tally
from cluster.corpus.read.reading import Rows, read_part
from cluster.corpus.read.sources import Source, source_of
from cluster.corpus.work import Work
from cluster.corpus.write.assemble import assemble
from cluster.corpus.write.manifest import Counts
from cluster.corpus.write.output import ids_of
from deployments.client.client import EncoderClient
from deployments.client.preprocessing import Preprocessor
from deployments.core.batch import Vectors
from deployments.core.engine.cpu.priority import give_way
from deployments.core.errors import InvalidRequest
from deployments.core.vectors import finished
from deployments.ray_private import known_replicas

_TOKENIZER_TIMEOUT_S = 300.0
_REPORT_S = 0.5
_LOOK_S = 2.0


class PartEncoder:
    """Encodes parts. Ray Data calls it with two stretches of them at a time, in one asyncio loop."""

    def __init__(self, work: Work) -> None:
        give_way()
        # it would tell the service's terminal that this process has found the service
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self._work = work
        self._slots = Slots(share(work.replicas, work.workers))
        self._tally = Tally(replicas=work.replicas)
        self._watching: asyncio.Task[None] | None = None
        self._abandoned = False

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Takes stretches as JSON in column ``stretch``: numbered parts of one file, in order.

        Returns of each part its ``number``, its counts as JSON in ``counts``, and in ``ids`` the
        digests of its rows' ids.
        """
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        found = [part for row in batch["stretch"] for part in await self._stretch(json.loads(row))]
        self._report()
        return {
            "number": np.array([number for number, _, _ in found]),
            "counts": np.array([json.dumps(asdict(counts)) for _, counts, _ in found]),
            "ids": np.array([ids for _, _, ids in found], object),
        }

    async def _stretch(
        self, rows: list[tuple[int, dict[str, Any]]]
    ) -> list[tuple[int, Counts, bytes]]:
        parts = [(number, Part.from_row(row)) for number, row in rows]
        source = source_of(self._work.inputs, parts[0][1].file)
        found = []
        for number, part in parts:
            if self._abandoned:
                raise JobError("the job was abandoned; run it again to go on")
            found.append((number, *await self._part(part, source)))
        return found

    @cached_property
    def _handle(self) -> DeploymentHandle:
        """Made inside the event loop: in Serve's throughput mode a handle routes in there."""
        return serve.get_deployment_handle(self._work.config.deployment_name, self._work.app)

    @cached_property
    def _client(self) -> EncoderClient:
        return EncoderClient(self._work.config, self._handle)

    async def _part(self, part: Part, source: Source) -> tuple[Counts, bytes]:
        work = self._work
        done = await asyncio.to_thread(work.output.done, part.name, work.identity)
        if done is not None:
            self._tally += Tally(skipped=part.weight)
            return done, self._digests(await asyncio.to_thread(work.output.ids, part.name))
        rows = await asyncio.to_thread(self._read, part, source)
        preprocessor = await self._client.ready_preprocessor(_TOKENIZER_TIMEOUT_S)
        documents = await asyncio.to_thread(self._prepare, preprocessor, rows)
        vectors = await self._vectors(preprocessor, documents, part)
        counts, ids = await asyncio.to_thread(self._commit, part, rows, documents, vectors)
        self._tally += Tally(rejected=counts.rejected)
        return counts, self._digests(ids)

    def _digests(self, ids: list[Any]) -> bytes:
        """None of derived ids, which are distinct by themselves."""
        return digests(ids) if self._work.settings.id_column else b""

    def _read(self, part: Part, source: Source) -> Rows:
        work = self._work
        try:
            column = work.settings.text_column
            rows = read_part(work.inputs, part, column, work.carried, source)
        except Exception as error:
            check_unchanged(work.inputs, part.file)
            raise JobError(
                f"{part.file.path} cannot be read from {part.start} on: {error}; mend or leave "
                "out the file"
            ) from error
        check_unchanged(work.inputs, part.file)
        return rows

    def _prepare(self, preprocessor: Preprocessor, rows: Rows) -> Documents:
        try:
            check_chunk(preprocessor, self._work.cut)
        except InvalidRequest as error:
            raise JobError(str(error)) from error
        return prepare(preprocessor, rows, self._work.cut)

    async def _vectors(
        self, preprocessor: Preprocessor, documents: Documents, part: Part
    ) -> Vectors:
        spec, batch = preprocessor.spec, documents.batch
        if batch is None:
            self._tally += Tally(weight=part.weight)
            return np.zeros((0, self._work.identity.dimensions), np.float32)
        flow = Flow(self._client, self._slots, call_tokens(self._work.tokens_per_s), spec.dimension)

        def done(texts: int, tokens: int) -> None:
            self._tally += Tally(texts, tokens, weight=part.weight * tokens / batch.tokens)

        vectors, reasons = await flow.encode(batch, done)
        for item, reason in reasons.items():
            documents.rejected[documents.items[item].row] = reason
        return finished(vectors, self._work.identity.dimensions, spec.normalize)

    def _commit(
        self, part: Part, rows: Rows, documents: Documents, vectors: Vectors
    ) -> tuple[Counts, list[Any]]:
        work = self._work
        table, rejects, counts = assemble(part.file.name, rows, documents, vectors, work.settings)
        work.output.commit(part.name, table, rejects, work.identity, counts)
        return counts, ids_of(table)

    async def _watch(self) -> None:
        """Reports progress, and follows the number of replicas and whether the job goes on."""
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while True:
            await asyncio.sleep(_REPORT_S)
            self._report()
            if loop.time() - looked > _LOOK_S:
                looked = loop.time()
                await self._look()

    async def _look(self) -> None:
        with suppress(RayError):  # the board restarts
            self._abandoned = await self._work.board.abandoned.remote()
        if count := known_replicas(self._handle.encode):
            await self._slots.resize(share(count, self._work.workers))
            self._tally = replace(self._tally, replicas=count)

    def _report(self) -> None:
        tally, self._tally = self._tally, Tally(replicas=self._tally.replicas)
        self._work.board.add.remote(tally)

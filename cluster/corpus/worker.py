"""One CPU worker of a corpus job, a Ray Data actor: takes parts through all steps, up to the commit."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ray.exceptions import RayError

from cluster.corpus.dedupe import digests
from cluster.corpus.encode.row_encoder import RowEncoder
from cluster.corpus.errors import JobError, PartDamaged
from cluster.corpus.formats.files import check_unchanged
from cluster.corpus.formats.sources import Source, source_of
from cluster.corpus.plan.parts import Part
from cluster.corpus.prepare.documents import Documents
from cluster.corpus.progress import Progress
from cluster.corpus.read.rows import Rows, read_part
from cluster.corpus.work import PartResult, Work, as_columns
from cluster.corpus.write.assemble import assemble
from cluster.corpus.write.manifest import Counts
from cluster.corpus.write.parquet import ids_of
from deployments.client.preprocessing import Preprocessor
from deployments.core.batch import AnyVectors
from deployments.core.engine.cpu.priority import give_way
from deployments.core.errors import EmbedfleetError

log = logging.getLogger(__name__)

_REPORT_S = 0.5
_CHECK_S = 2.0
_ABANDONED = "the job was abandoned; run the same command again to continue"


class PartWorker:
    """Encodes and commits parts. Ray Data calls it with two runs at a time, in one event loop.

    What goes wrong is returned as data: Ray would print an exception with its traceback, and drop its
    cause on the way.
    """

    def __init__(self, work: Work) -> None:
        give_way()
        # at INFO, Serve reports each new connection to the service on the service's terminal
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self._work = work
        self._encoder = RowEncoder(work.target)
        self._progress = Progress(replicas=work.replicas)
        self._reporting: asyncio.Task[None] | None = None
        self._abandoned = False
        self._running: set[asyncio.Task[PartResult]] = set()

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Takes runs of parts as JSON in column ``run``: numbered parts of one file, in order.

        Returns the columns of a `PartResult` for each part, up to the first that fails.
        """
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().create_task(self._keep_reporting())
        results = [part for run in batch["run"] for part in await self._run(json.loads(run))]
        self._report()
        return as_columns(results)

    async def _run(self, rows: list[tuple[int, dict[str, Any]]]) -> list[PartResult]:
        parts = [(number, Part.from_row(row)) for number, row in rows]
        source = source_of(self._work.inputs, parts[0][1].file)
        results: list[PartResult] = []
        for number, part in parts:
            results.append(await self._result(number, part, source))
            if results[-1].error:
                break
        return results

    async def _result(self, number: int, part: Part, source: Source) -> PartResult:
        if self._abandoned:
            return PartResult(number, error=_ABANDONED)
        task = asyncio.get_running_loop().create_task(self._part(number, part, source))
        self._running.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if not self._abandoned:
                raise
            return PartResult(number, error=_ABANDONED)
        except JobError as error:
            return PartResult(number, error=str(error))
        except EmbedfleetError as error:
            return PartResult(number, error=str(error.args[0]))
        except Exception as error:
            log.exception("part %s of %s failed", part.name, part.file.path)
            where = f"part {part.start} of {part.file.path}"
            return PartResult(
                number, error=f"{where} failed: {error!r}; the worker's log says more"
            )
        finally:
            self._running.discard(task)

    async def _part(self, number: int, part: Part, source: Source) -> PartResult:
        """Returns what became of a part's rows. Encodes it unless it is committed."""
        note = None
        try:
            if (earlier := await asyncio.to_thread(self._committed, number, part)) is not None:
                self._add_placed(part, earlier.counts)
                return earlier
        except PartDamaged as damage:
            note = f"{damage}; the part is encoded again"
        rows = await asyncio.to_thread(self._read, part, source)
        preprocessor, documents = await self._encoder.prepare(rows)
        vectors = await self._encode(preprocessor, documents, part)
        counts, ids = await asyncio.to_thread(self._commit, part, rows, documents, vectors)
        self._add_placed(part, counts)
        return PartResult(number, counts, self._digests(ids), note)

    def _add_placed(self, part: Part, counts: Counts) -> None:
        self._progress += Progress(rows=counts.rows, placed=part.weight, reasons=counts.reasons)

    def _committed(self, number: int, part: Part) -> PartResult | None:
        output = self._work.output
        if (counts := output.committed_counts(part.name, self._work.identity)) is None:
            return None
        return PartResult(number, counts, self._digests(output.ids(part.name)))

    def _digests(self, ids: list[Any]) -> bytes:
        """Empty for derived ids, which are always distinct."""
        return digests(ids) if self._work.settings.id_column else b""

    def _read(self, part: Part, source: Source) -> Rows:
        work = self._work
        try:
            texts, pairs = work.settings.text_column, work.settings.pairs
            queries = None if pairs is None else pairs.query_column
            rows = read_part(work.inputs, part, texts, work.carried, source, query_column=queries)
        except Exception as error:
            check_unchanged(work.inputs, part.file)
            reason = " ".join(str(error).split())  # libraries' messages may have several lines
            raise JobError(
                f"{part.file.path} cannot be read from {part.start} on: {reason}; repair or remove "
                "the file"
            ) from error
        check_unchanged(work.inputs, part.file)
        return rows

    async def _encode(
        self, preprocessor: Preprocessor, documents: Documents, part: Part
    ) -> AnyVectors:
        """As `RowEncoder.encode`, with progress."""
        all_tokens = documents.batch.tokens if documents.batch is not None else 0
        if not all_tokens:
            self._progress += Progress(weight=part.weight)

        def on_call_done(texts: int, tokens: int) -> None:
            self._progress += Progress(texts, tokens, weight=part.weight * tokens / all_tokens)

        return await self._encoder.encode(preprocessor, documents, on_call_done)

    def _commit(
        self, part: Part, rows: Rows, documents: Documents, vectors: AnyVectors
    ) -> tuple[Counts, list[Any]]:
        work = self._work
        table, rejects, counts = assemble(part.file.name, rows, documents, vectors, work.settings)
        work.output.commit(part.name, table, rejects, work.record(part.file, counts))
        return counts, ids_of(table)

    async def _keep_reporting(self) -> None:
        """Reports progress, and now and then checks the number of replicas and the driver."""
        loop = asyncio.get_running_loop()
        checked_at = loop.time()
        while True:
            await asyncio.sleep(_REPORT_S)
            self._report()
            if loop.time() - checked_at > _CHECK_S:
                checked_at = loop.time()
                await self._check()

    async def _check(self) -> None:
        with suppress(RayError):  # the collector may be restarting
            self._abandoned = await self._work.collector.abandoned.remote()
        if self._abandoned:
            for task in self._running:
                task.cancel()
        if replicas := await self._encoder.follow():
            self._progress = replace(self._progress, replicas=replicas)

    def _report(self) -> None:
        progress, self._progress = self._progress, Progress(replicas=self._progress.replicas)
        self._work.collector.add.remote(progress)

"""What a worker does with texts that the replicas could not encode, and with parts that fail."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest

from cluster.corpus import worker
from cluster.corpus.errors import JobError
from cluster.corpus.formats.files import InputFile
from cluster.corpus.plan.parts import Part
from cluster.corpus.prepare.documents import Documents, Item
from cluster.corpus.work import PartResult
from cluster.corpus.worker import PartWorker
from cluster.corpus.write.manifest import Counts
from deployments.client.preprocessing import Preprocessor
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import TextFailed
from deployments.core.models.catalog import CATALOG
from tests.support.local_job import TARGET

SPEC = CATALOG["all-MiniLM-L6-v2"]


class FailsOnOneToken:
    """Fails the texts of one token, as a replica does."""

    async def encode_tokens(self, batch, lane, timeout_s):
        vectors = np.ones((len(batch), SPEC.dimension), np.float32)
        failed = [n for n, length in enumerate(batch.lengths) if length == 1]
        return Encoded(vectors, 0.0, 0.0, {n: TextFailed("not finite") for n in failed})


async def test_a_failed_chunk_rejects_its_row(monkeypatch):
    monkeypatch.setattr(worker, "give_way", lambda: None)
    part_worker = PartWorker(SimpleNamespace(replicas=1, target=TARGET))
    part_worker._encoder.client = FailsOnOneToken()
    items = [Item(0, 0, 5), Item(1, 0, 5), Item(1, 5, 6)]
    documents = Documents(items, [TokenBatch.from_lists([[1, 2], [3, 4], [5]])])
    await part_worker._encode(Preprocessor(SPEC, None), documents, Part(None, 0, 6, 6))
    assert list(documents.rejected) == [1]


FILE = InputFile("/in/a.txt", "a.txt", 30, 1, "text")
RUN = json.dumps([(n, Part(FILE, 10 * n, 10 * n + 10, 10).as_row()) for n in range(3)])


@pytest.fixture
def part_worker(monkeypatch) -> PartWorker:
    """A worker whose parts go wrong in the way that a test sets as its ``_part``."""
    monkeypatch.setattr(worker, "give_way", lambda: None)
    work = SimpleNamespace(inputs=None, replicas=1, target=TARGET, collector=Collector())
    return PartWorker(work)


class Collector:
    """Stands for the Ray actor that the driver and the workers share."""

    def __init__(self) -> None:
        self.is_abandoned = False
        self.add = SimpleNamespace(remote=lambda progress: None)
        self.abandoned = SimpleNamespace(remote=self._abandoned)

    async def _abandoned(self) -> bool:
        return self.is_abandoned


async def results(part_worker: PartWorker) -> list[PartResult]:
    columns = await part_worker({"run": [RUN]})
    rows = zip(columns["result"], columns["ids"], strict=True)
    return [PartResult.from_row({"result": result, "ids": ids}) for result, ids in rows]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (JobError("the disk is full"), "the disk is full"),
        (TextFailed("not finite"), "not finite"),
        (ZeroDivisionError("a bug"), "part 10 of /in/a.txt failed: ZeroDivisionError('a bug')"),
    ],
)
async def test_what_goes_wrong_comes_back_as_data(part_worker, error, words):
    async def part(number, part, source):
        if number:
            raise error
        return PartResult(number, Counts(rows=2, reasons={"null": 1}), b"id", "a note")

    part_worker._part = part
    done, failed = await results(part_worker)  # the third part is not begun
    assert done == PartResult(0, Counts(rows=2, reasons={"null": 1}), b"id", "a note")
    assert (failed.number, failed.counts) == (1, Counts())
    assert failed.error.startswith(words)


async def nothing() -> None:
    """For what is awaited and does not matter."""


async def test_a_job_that_is_abandoned_ends_the_part_that_is_encoded(part_worker, monkeypatch):
    monkeypatch.setattr(worker, "_REPORT_S", 0.01)
    monkeypatch.setattr(worker, "_CHECK_S", 0.0)
    part_worker._encoder.client = SimpleNamespace(follow=nothing, replicas=0)
    started = asyncio.Event()

    async def part(number, part, source):
        started.set()
        await asyncio.sleep(60)

    part_worker._part = part
    working = asyncio.create_task(results(part_worker))
    await started.wait()
    part_worker._work.collector.is_abandoned = True
    (failed,) = await asyncio.wait_for(working, 5)
    assert "abandoned" in failed.error

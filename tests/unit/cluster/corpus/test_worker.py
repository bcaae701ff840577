"""What a worker does with texts that the replicas could not encode."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from cluster.corpus import worker
from cluster.corpus.plan.parts import Part
from cluster.corpus.prepare.documents import Documents, Item
from cluster.corpus.worker import PartWorker
from deployments.client.preprocessing import Preprocessor
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import TextFailed
from deployments.core.models.catalog import CATALOG

SPEC = CATALOG["all-MiniLM-L6-v2"]


class FailsOnOneToken:
    """Fails the texts of one token, as a replica does."""

    async def encode_tokens(self, batch, lane, timeout_s):
        vectors = np.ones((len(batch), SPEC.dimension), np.float32)
        failed = [n for n, length in enumerate(batch.lengths) if length == 1]
        return Encoded(vectors, 0.0, 0.0, {n: TextFailed("not finite") for n in failed})


async def test_a_failed_chunk_rejects_its_row(monkeypatch):
    monkeypatch.setattr(worker, "give_way", lambda: None)
    identity = SimpleNamespace(dimensions=SPEC.dimension)
    work = SimpleNamespace(identity=identity, tokens_per_s=None, replicas=1, workers=1)
    part_worker = PartWorker(work)
    part_worker._client = FailsOnOneToken()
    items = [Item(0, 0, 5), Item(1, 0, 5), Item(1, 5, 6)]
    documents = Documents(items, [TokenBatch.from_lists([[1, 2], [3, 4], [5]])])
    await part_worker._encode(Preprocessor(SPEC, None), documents, Part(None, 0, 6, 6))
    assert list(documents.rejected) == [1]

"""What a worker makes of rows before anything is encoded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cluster.corpus import worker
from cluster.corpus.errors import JobError
from cluster.corpus.prepare.documents import Documents, TextOptions
from cluster.corpus.worker import PartWorker
from deployments.client.preprocessing import Preprocessor
from deployments.core.batch import TokenBatch
from deployments.core.models.catalog import CATALOG
from deployments.core.models.spec import Role


def test_token_ids_are_put_together_once():
    documents = Documents(batches=[TokenBatch.from_lists([[1]]), TokenBatch.from_lists([[2, 3]])])
    assert documents.batch is documents.batch
    assert documents.batch is not None
    assert documents.batch.tokens == 3
    assert Documents().batch is None


def test_chunks_that_cannot_fit_are_refused_before_any_tokenizing(monkeypatch):
    monkeypatch.setattr(worker, "give_way", lambda: None)
    monkeypatch.setattr(worker, "prepare", lambda *_: pytest.fail("tokenized"))
    work = SimpleNamespace(
        text_options=TextOptions(Role.DOCUMENT, chunk=500), replicas=1, workers=1
    )
    preprocessor = Preprocessor(CATALOG["all-MiniLM-L6-v2"], SimpleNamespace(room=254))
    with pytest.raises(JobError, match="chunks of 500 tokens do not fit"):
        PartWorker(work)._prepare(preprocessor, None)

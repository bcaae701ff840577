"""What a worker makes of rows before anything is encoded."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster.corpus.encode import row_encoder
from cluster.corpus.encode.row_encoder import RowEncoder
from cluster.corpus.errors import JobError
from cluster.corpus.prepare.documents import Documents, TextOptions
from deployments.client.preprocessing import Preprocessor
from deployments.core.batch import TokenBatch
from deployments.core.models.catalog import CATALOG
from deployments.core.models.spec import Role
from tests.support.local_job import TARGET, LocalService


def test_token_ids_are_put_together_once():
    documents = Documents(batches=[TokenBatch.from_lists([[1]]), TokenBatch.from_lists([[2, 3]])])
    assert documents.batch is documents.batch
    assert documents.batch is not None
    assert documents.batch.tokens == 3
    assert Documents().batch is None


async def test_chunks_that_cannot_fit_are_refused_before_any_tokenizing(monkeypatch):
    monkeypatch.setattr(row_encoder, "prepare", lambda *_: pytest.fail("tokenized"))
    spec = CATALOG["all-MiniLM-L6-v2"]
    service = LocalService(model=Preprocessor(spec, SimpleNamespace(room=254)))
    encoder = RowEncoder(replace(TARGET, options=TextOptions(Role.DOCUMENT, chunk=500)))
    encoder.client = service
    with pytest.raises(JobError, match="chunks of 500 tokens do not fit"):
        await encoder.prepare(None)

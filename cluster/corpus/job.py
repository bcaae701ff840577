"""Encodes a corpus with the replicas that serve online traffic: Ray Data around parts that commit alone.

Why not Ray Data's own checkpoints (2.60)? They were tried. A checkpoint saves only what a write task
has finished, and Ray Data fuses read, map and write into one task where it can: a job that failed after
nine tenths of its rows had saved none. From its source: ids are filtered right after the read, so an id
that is derived later cannot be used; a row that is rejected is done again on every run; the chunks of one
row must not fall into two writes; and all finished ids are held in memory. Here, a part is a file name:
if the file is there, the part is done, and if not, it is done again.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from cluster.corpus.connect import JobModel, connect, find_model
from cluster.corpus.dedupe import IdIndex, drop_duplicates
from cluster.corpus.errors import JobError
from cluster.corpus.execution import Execution, Run
from cluster.corpus.formats.files import InputFile, resolve
from cluster.corpus.plan.inputs import find_inputs
from cluster.corpus.plan.parts import Plan, plan_parts
from cluster.corpus.progress import start_collector
from cluster.corpus.settings import Settings
from cluster.corpus.work import Work
from cluster.corpus.write.manifest import Manifest, check_resumable, identify, new_manifest
from cluster.corpus.write.output import LANCE_PARTS, Output
from deployments.core.errors import InvalidRequest

_CPUS_PER_WORKER = 4


@dataclass(frozen=True)
class Summary:
    """What the output folder holds now, and what this run added and cost."""

    manifest: Manifest
    output: str
    tokens: int
    seconds: float
    cost: float | None

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of this run."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def cost_per_million_tokens(self) -> float | None:
        """In the currency of the price; None without a price, or if nothing was left to do."""
        return None if self.cost is None or not self.tokens else self.cost / self.tokens * 1e6


def encode_corpus(settings: Settings, run: Run | None = None) -> Summary:
    """Encodes the missing parts of a corpus and returns what the output holds then.

    Blocks until the end. Raises JobError, before any work if possible; otherwise all committed parts
    stay in place, and the same call continues from there. Uses the caller's connection to Ray if there
    is one, and leaves it open, so that a process can run one job after another.
    """
    run = run or Run()
    corpus = _read_corpus(settings)
    connect(run.address)
    model = find_model(settings.model)
    if run.on_model:
        run.on_model(model)
    output = _open_output(settings)
    manifest = _start(output, settings, model, corpus)
    work, parts = _work(settings, run, model, manifest, corpus, output), corpus.plan.parts
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="embedfleet-") as folder:
        index = IdIndex(Path(folder), len(parts))
        counts, progress, hours = Execution(work, parts, run, index, model).result()
        counts += drop_duplicates(work, parts, index)
    seconds = time.monotonic() - started
    finished = replace(manifest, counts=counts, seconds=manifest.seconds + seconds, finished=True)
    if settings.format == "lance":
        from cluster.corpus.write.lance import write_lance

        write_lance(output)
    output.write_manifest(finished)
    output.clean()
    price = run.price_per_replica_hour
    cost = None if price is None else hours * price
    return Summary(finished, settings.output, progress.tokens, seconds, cost)


@dataclass(frozen=True)
class _Corpus:
    filesystem: Any
    files: list[InputFile]
    plan: Plan


def _read_corpus(settings: Settings) -> _Corpus:
    filesystem, files = find_inputs(settings.input, settings.input_format, settings.output)
    return _Corpus(filesystem, files, plan_parts(filesystem, files, settings))


def _open_output(settings: Settings) -> Output:
    filesystem, root = resolve(settings.output)
    return Output(filesystem, root, LANCE_PARTS if settings.format == "lance" else "")


def _start(output: Output, settings: Settings, model: JobModel, corpus: _Corpus) -> Manifest:
    """Checks that the job fits the model and what the output holds, and writes its manifest."""
    spec = model.served.spec
    assert spec is not None
    try:
        identity = identify(spec, settings, model.served.role)
    except InvalidRequest as error:
        raise JobError(str(error)) from error
    if settings.chunk and settings.chunk > spec.max_tokens:
        raise JobError(
            f"--chunk {settings.chunk}: {spec.name} takes {spec.max_tokens} tokens at most"
        )
    manifest = new_manifest(identity, settings, corpus.files, corpus.plan.carried)
    if (earlier := output.manifest()) is not None:
        check_resumable(earlier, manifest, settings.output, output.committed_files())
        manifest = replace(manifest, seconds=earlier.seconds)
    output.prepare()
    output.write_manifest(manifest)
    return manifest


def _work(  # noqa: PLR0913, PLR0917
    settings: Settings,
    run: Run,
    model: JobModel,
    manifest: Manifest,
    corpus: _Corpus,
    output: Output,
) -> Work:
    status = model.served.status
    cpus = ray.cluster_resources().get("CPU", 1)
    return Work(
        settings=settings,
        identity=manifest.identity,
        app=model.app,
        config=model.served.pinned,
        tokens_per_s=status.replica.tokens_per_s,
        replicas=status.replicas,
        workers=run.workers or max(1, int(cpus // _CPUS_PER_WORKER)),
        inputs=corpus.filesystem,
        output=output,
        carried=corpus.plan.carried,
        collector=start_collector(),
    )

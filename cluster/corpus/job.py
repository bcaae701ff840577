"""A corpus through the replicas that serve online traffic: Ray Data around parts that commit alone.

Ray Data's own checkpoints (2.60) were tried and not taken. What a write task has not finished is not
saved, and read, map and write become one task where they can: a job that failed at nine tenths of its
rows had saved none. From the source: ids are filtered right after the read, so an id that is derived
has none to go by, a row that ends as a reject is done again on each run, chunks of one row must not
fall into two writes; and all finished ids are held in memory. Here a part is a file name: it is
there, or it is done again.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from cluster.corpus.connect import Target, connect, find_target
from cluster.corpus.dedupe import Ledger, drop_repeated
from cluster.corpus.errors import JobError
from cluster.corpus.execution import Execution, Run
from cluster.corpus.plan.inputs import InputFile, find_inputs, resolve
from cluster.corpus.plan.parts import Plan, plan
from cluster.corpus.progress import open_board
from cluster.corpus.settings import Settings
from cluster.corpus.work import Work
from cluster.corpus.write.manifest import Manifest, check_same, describe, identify
from cluster.corpus.write.output import LANCE_PARTS, Output
from deployments.core.errors import InvalidRequest

_CPUS_PER_WORKER = 4


@dataclass(frozen=True)
class Summary:
    """What a folder of vectors holds now, and what this run added and cost."""

    manifest: Manifest
    output: str
    tokens: int
    seconds: float
    cost: float | None

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of this run."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def cost_per_million_tokens(self) -> float | None:
        """In the price's currency; None without a price, or when nothing was left to do."""
        return None if self.cost is None or not self.tokens else self.cost / self.tokens * 1e6


def encode_corpus(settings: Settings, run: Run | None = None) -> Summary:
    """Encodes what is missing of a corpus and returns what is there then.

    Blocks until the end. Raises JobError: before any work where it can be known, and otherwise with
    every committed part in place, so that the same call goes on from there.
    """
    run = run or Run()
    corpus = _read_corpus(settings)
    connect(run.address)
    target = find_target(settings.model)
    if run.found:
        run.found(target)
    output = _output(settings)
    manifest = _begin(output, settings, target, corpus)
    work, parts = _work(settings, run, target, manifest, corpus, output), corpus.plan.parts
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="embedfleet-") as folder:
        ledger = Ledger(Path(folder), len(parts))
        counts, tally, hours = Execution(work, parts, run, ledger, target).result()
        counts += drop_repeated(work, parts, ledger)
    seconds = time.monotonic() - started
    done = replace(manifest, counts=counts, seconds=manifest.seconds + seconds, finished=True)
    if settings.format == "lance":
        from cluster.corpus.write.lance import write_lance

        write_lance(output)
    output.write_manifest(done)
    output.clean()
    price = run.price_per_replica_hour
    cost = None if price is None else hours * price
    return Summary(done, settings.output, tally.tokens, seconds, cost)


@dataclass(frozen=True)
class _Corpus:
    filesystem: Any
    files: list[InputFile]
    plan: Plan


def _read_corpus(settings: Settings) -> _Corpus:
    filesystem, files = find_inputs(settings.input, settings.input_format, settings.output)
    return _Corpus(filesystem, files, plan(filesystem, files, settings))


def _output(settings: Settings) -> Output:
    filesystem, root = resolve(settings.output)
    return Output(filesystem, root, LANCE_PARTS if settings.format == "lance" else "")


def _begin(output: Output, settings: Settings, target: Target, corpus: _Corpus) -> Manifest:
    spec = target.model.spec
    assert spec is not None
    try:
        identity = identify(spec, settings, target.model.role)
    except InvalidRequest as error:
        raise JobError(str(error)) from error
    if settings.chunk and settings.chunk > spec.max_tokens:
        raise JobError(
            f"--chunk {settings.chunk}: {spec.name} takes {spec.max_tokens} tokens at most"
        )
    manifest = describe(identity, settings, corpus.files, corpus.plan.carried)
    if (found := output.manifest()) is not None:
        check_same(found, manifest, settings.output, output.begun())
        manifest = replace(manifest, seconds=found.seconds)
    output.prepare()
    output.write_manifest(manifest)
    return manifest


def _work(  # noqa: PLR0913, PLR0917
    settings: Settings,
    run: Run,
    target: Target,
    manifest: Manifest,
    corpus: _Corpus,
    output: Output,
) -> Work:
    status = target.model.status
    cpus = ray.cluster_resources().get("CPU", 1)
    return Work(
        settings=settings,
        identity=manifest.identity,
        app=target.app,
        config=target.model.pinned,
        tokens_per_s=status.replica.tokens_per_s,
        replicas=status.replicas,
        workers=run.workers or max(1, int(cpus // _CPUS_PER_WORKER)),
        inputs=corpus.filesystem,
        output=output,
        carried=corpus.plan.carried,
        board=open_board(),
    )

"""A corpus through the replicas that serve online traffic: Ray Data around parts that commit alone.

Ray Data's own checkpoints (2.60) were tried and not taken. What a write task has not finished is not
saved, and read, map and write become one task where they can: a job that failed at nine tenths of its
rows had saved none. From the source: ids are filtered right after the read, so an id that is derived
has none to go by, a row that ends as a reject is done again on each run, chunks of one row must not
fall into two writes; and all finished ids are held in memory. Here a part is a file name: it is
there, or it is done again.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray

from cluster.encoding.board import Tally, open_board
from cluster.encoding.failures import JobError
from cluster.encoding.inputs import InputFile, find_inputs, resolve
from cluster.encoding.manifest import Counts, Manifest, check_same, describe, identify
from cluster.encoding.output import Output
from cluster.encoding.parts import Part, check_columns, plan
from cluster.encoding.progress import Snapshot
from cluster.encoding.reading import sample_records, sample_schema
from cluster.encoding.settings import Settings
from cluster.encoding.target import Target, connect, find_target
from cluster.encoding.worker import PartEncoder, Work
from deployments.embedding.errors import InvalidRequest

_WORKER_CPUS = 0.25
_CPUS_PER_WORKER = 4
# one part is encoded while the next is read and the last one written
_PARTS_PER_WORKER = 2
_MOST_BLOCKS = 2_000
_LOOK_S = 0.5


@dataclass(frozen=True)
class Run:
    """How a job is run, which changes nothing about its vectors."""

    address: str | None = None
    workers: int | None = None
    price_per_replica_hour: float | None = None
    watch: Callable[[Snapshot], None] | None = None


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
    output = _output(settings)
    manifest = _begin(output, settings, target, corpus.files)
    work = _work(settings, run, target, manifest, corpus, output)
    started = time.monotonic()
    counts, tally, hours = _Execution(work, corpus.parts, run).result()
    seconds = time.monotonic() - started
    done = replace(manifest, counts=counts, seconds=manifest.seconds + seconds, finished=True)
    if settings.format == "lance":
        from cluster.encoding.lance import write_lance

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
    parts: list[Part]
    carried: Any


def _read_corpus(settings: Settings) -> _Corpus:
    filesystem, files = find_inputs(settings.input, settings.input_format)
    telling = next((file for file in files if file.size), files[0])
    carried = _schema(filesystem, telling, settings)
    return _Corpus(filesystem, files, plan(filesystem, files, settings), carried)


def _schema(inputs: Any, file: Any, settings: Settings) -> Any:
    if file.format == "text":
        check_columns(["text"], settings, file.path)
    if file.format == "json":
        records = list(sample_records(inputs, file))
        if not records and file.size:
            raise JobError(f"{file.path} is not JSON Lines: its first lines are no JSON objects")
        if records:
            check_columns(dict.fromkeys(key for r in records for key in r), settings, file.path)
    try:
        return sample_schema(inputs, file, settings.columns)
    except KeyError as error:
        raise JobError(f"{file.path} has no column {error}") from error
    except Exception as error:
        raise JobError(f"{file.path} cannot be read: {error}") from error


def _output(settings: Settings) -> Output:
    filesystem, root = resolve(settings.output)
    return Output(filesystem, root, "_parts" if settings.format == "lance" else "")


def _begin(output: Output, settings: Settings, target: Target, files: Any) -> Manifest:
    spec = target.model.spec
    assert spec is not None
    try:
        identity = identify(spec, settings, target.model.role)
    except InvalidRequest as error:
        raise JobError(str(error)) from error
    manifest = describe(identity, settings, files)
    if (found := output.manifest()) is not None:
        check_same(found, manifest, settings.output)
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
        config=target.model.config,
        tokens_per_s=status.tokens_per_s,
        replicas=status.replicas,
        workers=run.workers or max(1, int(cpus // _CPUS_PER_WORKER)),
        inputs=corpus.filesystem,
        output=output,
        carried=corpus.carried,
        board=open_board(),
    )


class _Execution:
    """The dataset at work in a thread, so that this one can watch."""

    def __init__(self, work: Work, parts: list[Part], run: Run) -> None:
        self._work = work
        self._parts = parts
        self._run = run
        self._counts = Counts()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._consume, daemon=True)

    def result(self) -> tuple[Counts, Tally, float]:
        """Runs to the end: counts of all parts, what this run did, and its replica-hours."""
        total = float(sum(part.weight for part in self._parts))
        started = last = time.monotonic()
        hours, tally = 0.0, Tally(replicas=self._work.replicas)
        self._thread.start()
        alive = True
        while alive:
            self._thread.join(_LOOK_S)
            alive = self._thread.is_alive()
            tally = self._look(tally)
            now = time.monotonic()
            hours += tally.replicas * (now - last) / 3_600
            last = now
            if self._run.watch and self._error is None:
                price = self._run.price_per_replica_hour
                self._run.watch(Snapshot(tally, total, now - started, hours, price))
        if self._error is not None:
            raise _explained(self._error) from self._error
        return self._counts, tally, hours

    def _consume(self) -> None:
        try:
            for row in self._dataset().iter_rows():
                self._counts += Counts(**json.loads(row["counts"]))
        except BaseException as error:
            self._error = error

    def _dataset(self) -> Any:
        rows = [{"part": json.dumps(part.as_row())} for part in self._parts]
        _quiet()
        pool = ray.data.ActorPoolStrategy(
            size=min(self._work.workers, len(rows)),
            max_concurrent_calls_per_actor=_PARTS_PER_WORKER,
        )
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
        return dataset.map_batches(
            PartEncoder,
            batch_size=1,
            compute=pool,
            num_cpus=_WORKER_CPUS,
            fn_constructor_args=(self._work,),
        )

    def _look(self, before: Tally) -> Tally:
        try:
            found: Tally = ray.get(self._work.board.total.remote(), timeout=5.0)
        except Exception:  # only the progress line misses it
            return before
        return found


def _quiet() -> None:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.data.dataset"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _explained(error: BaseException) -> JobError:
    """The worker's own words, from beneath Ray's wrapping."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, JobError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return JobError(f"the job failed: {error}; what is committed stays, run it again to go on")

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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from cluster.corpus.connect import JobModel, check_disk, connect, session_folder, wait_for_model
from cluster.corpus.dedupe import IdIndex, drop_duplicates
from cluster.corpus.errors import JobError
from cluster.corpus.execution import Execution, Run
from cluster.corpus.opened import OpenedJob, open_job
from cluster.corpus.progress import start_collector
from cluster.corpus.settings import ScoreSettings, Settings
from cluster.corpus.work import Work
from cluster.corpus.write.manifest import Manifest, check_resumable, identify, new_manifest
from cluster.corpus.write.output import Output
from deployments.core.errors import InvalidRequest

_CPUS_PER_WORKER = 4


@dataclass(frozen=True)
class Summary:
    """What the output folder holds now, where the rejects are, and what this run added and cost.

    ``not_read`` counts the files of the input that were not read, by the reason.
    """

    manifest: Manifest
    output: str
    rejects: str
    not_read: str | None
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
    return encode_opened(open_job(settings, run.say), run)


def score_corpus(settings: ScoreSettings, run: Run | None = None) -> Summary:
    """Scores the missing pairs of a corpus, otherwise as `encode_corpus`."""
    return encode_corpus(settings.as_job(), run)


def encode_opened(job: OpenedJob, run: Run) -> Summary:
    """As `encode_corpus`, for a job that `open_job` has opened."""
    settings, output = job.settings, job.output
    connect(run.address, run.url, run.wording)
    if run.on_connect:
        run.on_connect()
    session = session_folder()
    check_disk(session)
    model = wait_for_model(settings.model, settings.kinds, run.wait_s, run.say)
    if run.on_model:
        run.on_model(model)
    wanted = _manifest(job, model)
    lock = output.lock()

    def check() -> None:
        lock.check()
        check_disk(session)

    with lock.held(run.say):
        manifest = _start(output, wanted, settings, run.say)
        work = _work(job, run, model, manifest)
        return _encode(work, job, run, manifest, model, check)


def _encode(  # noqa: PLR0913, PLR0917
    work: Work,
    job: OpenedJob,
    run: Run,
    manifest: Manifest,
    model: JobModel,
    check: Callable[[], None],
) -> Summary:
    output, parts = job.output, job.plan.parts
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="embedfleet-") as folder:
        index = IdIndex(Path(folder), len(parts))
        execution = Execution(work, parts, run, index, model, check)
        counts, progress, hours = execution.result()
        counts += drop_duplicates(work, parts, index)
    seconds = time.monotonic() - started
    finished = replace(manifest, counts=counts, seconds=manifest.seconds + seconds, finished=True)
    if job.settings.format == "lance":
        from cluster.corpus.write.lance import write_lance

        write_lance(output)
    output.write_manifest(finished)
    output.clean()
    price = run.price_per_replica_hour
    cost = None if price is None else hours * price
    place, rejects = job.settings.output, output.rejects_folder
    return Summary(finished, place, rejects, job.inputs.not_read, progress.tokens, seconds, cost)


def _manifest(job: OpenedJob, model: JobModel) -> Manifest:
    """Checks that the job fits the model, and returns the manifest of a new output."""
    settings, spec = job.settings, model.served.spec
    assert spec is not None
    try:
        identity = identify(spec, settings, model.served.role)
    except InvalidRequest as error:
        raise JobError(str(error)) from error
    if settings.chunk and settings.chunk > spec.max_tokens:
        raise JobError(
            f"--chunk {settings.chunk}: {spec.name} takes {spec.max_tokens} tokens at most"
        )
    return new_manifest(identity, settings, job.inputs.files, job.plan.carried)


def _start(
    output: Output, wanted: Manifest, settings: Settings, say: Callable[[str], None]
) -> Manifest:
    """Checks that the job fits what the output holds, and writes its manifest."""
    if (earlier := output.manifest(say)) is not None:
        check_resumable(earlier, wanted, settings.output, output.committed_files())
        wanted = replace(wanted, seconds=earlier.seconds)
    output.prepare()
    output.write_manifest(wanted)
    return wanted


def _work(job: OpenedJob, run: Run, model: JobModel, manifest: Manifest) -> Work:
    status = model.served.status
    cpus = ray.cluster_resources().get("CPU", 1)
    return Work(
        settings=job.settings,
        recorded=manifest.settings,
        identity=manifest.identity,
        app=model.app,
        config=model.served.pinned,
        tokens_per_s=status.replica.tokens_per_s,
        replicas=status.replicas,
        workers=run.workers or max(1, int(cpus // _CPUS_PER_WORKER)),
        inputs=job.inputs.filesystem,
        output=job.output,
        carried=job.plan.carried,
        wait_s=run.wait_s,
        collector=start_collector(),
    )

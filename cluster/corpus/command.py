"""``embedfleet encode`` and ``embedfleet score``: from arguments to a job and its exit status."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import TYPE_CHECKING

from cluster.corpus.errors import JobError
from cluster.corpus.opened import OpenedJob, open_job
from cluster.corpus.progress import ProgressPrinter, clock, reasons_line, short_number
from cluster.corpus.settings import ScoreSettings, Settings
from cluster.corpus.watchdog import Watchdog, watchdog
from deployments.core.engine.cpu.priority import give_way
from deployments.core.models.spec import Role

if TYPE_CHECKING:  # Ray takes seconds to import, and is not needed to refuse a job
    from cluster.corpus.connect import JobModel
    from cluster.corpus.job import Summary
    from cluster.corpus.write.manifest import Manifest

NOTHING_ENCODED = 3


def run(args: argparse.Namespace) -> int:
    """Runs the job and returns the exit status.

    That is 1 when it failed, 3 when it came to its end and no row could be encoded, 130 when it was
    interrupted.
    """
    printer = ProgressPrinter(sys.stderr, sys.stderr.isatty())
    job: OpenedJob | None = None
    try:
        with _interrupted_by_signals(), watchdog() as dog:
            settings = score_settings(args).as_job() if args.scores else encode_settings(args)
            job = open_job(settings, printer.say)
            summary = _encode(job, args, printer, dog)
    except JobError as error:
        printer.end()
        print(f"embedfleet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be closed
            printer.end()
            kept = f"{job.parts_in_place}. Run" if job else "run"
            print(
                f"embedfleet: stopped; {kept} the same command again to continue", file=sys.stderr
            )
        return 130
    printer.end()
    print(report(summary))
    return 0 if summary.manifest.counts.documents else NOTHING_ENCODED


def _encode(
    job: OpenedJob, args: argparse.Namespace, printer: ProgressPrinter, dog: Watchdog
) -> Summary:
    from cluster.corpus.connect import IN_COMMAND, raylet_socket
    from cluster.corpus.execution import Run
    from cluster.corpus.job import encode_opened
    from cluster.corpus.start_service import started_service

    # Serve's messages are for its operators, and would break the progress line
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    service = (
        started_service(args.start, args.model, args.address, job.settings.kinds)
        if args.start
        else nullcontext()
    )
    price = args.price_per_replica_hour

    def on_connect() -> None:  # before the wait for a model, in which Ray may end
        dog.watch_raylet(raylet_socket())

    def on_model(model: JobModel) -> None:
        printer.say(str(model))

    job_run = Run(
        args.address,
        args.workers,
        price,
        args.wait,
        printer.show,
        printer.say,
        on_model,
        args.url,
        IN_COMMAND,
        on_connect,
    )
    with service:
        if args.start:  # only now, or the service would inherit the low priority
            give_way()
        return encode_opened(job, job_run)


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP stop the job as Ctrl-C does.

    Raises KeyboardInterrupt then, also if a library on the way has made another error of it.
    """
    interrupted = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.default_int_handler(number, frame)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, interrupt)
    try:
        yield
    except Exception as error:
        if interrupted.is_set():
            raise KeyboardInterrupt from error
        raise


def report(summary: Summary) -> str:
    """Returns the summary that is printed after a job."""
    manifest, counts = summary.manifest, summary.manifest.counts
    done = "scored" if manifest.are_scores else "encoded"
    chunks = f", {counts.written:,} chunks" if manifest.settings.get("chunk") else ""
    lines = [
        f"{summary.output}: {counts.rows:,} rows in, {counts.documents:,} {done}{chunks}, "
        f"{counts.rejected:,} rejected",
        _source(manifest),
    ]
    if counts.rejected:
        lines.append(f"{reasons_line(counts.reasons)}: see {summary.rejects}")
    if summary.not_read:
        lines.append(summary.not_read)
    if not counts.documents:
        return "\n".join([*lines, f"no row could be {done}"])
    if not summary.tokens:
        return "\n".join([*lines, "nothing was left to do"])
    fields = [
        f"{short_number(summary.tokens)} tokens in {clock(summary.seconds)}",
        f"{short_number(summary.tokens_per_s)} tokens/s",
    ]
    if summary.cost is not None and summary.cost_per_million_tokens is not None:
        fields += [
            f"cost {summary.cost:.4g}",
            f"{summary.cost_per_million_tokens:.4g} per million tokens",
        ]
    return "\n".join([*lines, ", ".join(fields)])


def _source(manifest: Manifest) -> str:
    identity = manifest.identity
    if manifest.are_scores:
        return f"{identity.model}, revision {identity.revision}"
    return f"{identity.model}, space {identity.space_id}, {identity.dimensions} dimensions"


def score_settings(args: argparse.Namespace) -> ScoreSettings:
    """Returns what the arguments of ``embedfleet score`` say of the job."""
    return ScoreSettings(
        input=args.input,
        output=args.output,
        model=args.model,
        query_column=args.query_column,
        document_column=args.document_column,
        id_column=args.id_column,
        keep=_names(args.keep),
        instruction=args.instruction,
        raw_scores=args.raw_scores,
        limit=args.limit,
        truncate=args.truncate,
        part_mb=args.part_mb,
        format=args.format,
        input_format=args.input_format,
        delimiter=_delimiter(args.delimiter),
    )


def encode_settings(args: argparse.Namespace) -> Settings:
    """Returns what the arguments of ``embedfleet encode`` say of the job."""
    return Settings(
        input=args.input,
        output=args.output,
        model=args.model,
        text_column=args.text_column,
        id_column=args.id_column,
        keep=_names(args.keep),
        role=Role(args.role) if args.role else None,
        instruction=args.instruction,
        dimensions=args.dimensions,
        dtype=args.dtype,
        limit=args.limit,
        truncate=args.truncate,
        chunk=args.chunk,
        overlap=args.overlap,
        part_mb=args.part_mb,
        format=args.format,
        input_format=args.input_format,
        delimiter=_delimiter(args.delimiter),
    )


def _names(lists: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for names in lists for name in names.split(",") if name)


def _delimiter(given: str | None) -> str | None:
    return given and given.replace("\\t", "\t")

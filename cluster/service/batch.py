"""``embedfleet batch``: sends a file of requests, shows the progress, and fetches the results."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

from cluster.service.http import DownloadBroken, Service, ServiceError

_EVERY_S = 1.0
_SILENT_S = 120.0  # as long as a service may take to start again
_RESULTS, _ERRORS = ".output.jsonl", ".errors.jsonl"
_FINAL = ("completed", "failed", "expired", "cancelled")
_SOME_FAILED, _INTERRUPTED = 3, 130


def run(service: Service, file: str | None, batch_id: str | None, output: str | None) -> int:
    """Runs a batch of ``file``, or goes on with one that was sent. Returns the exit status.

    That is 0 if every line was answered, 3 if some lines have an error, 1 if the batch itself failed,
    expired or was cancelled, and 130 if the command was interrupted.

    Raises ServiceError, and OSError if a file cannot be read or written.
    """
    content = _opened(Path(file)) if file else None
    stem = Path(file or str(batch_id)).with_suffix("")
    results = Path(output) if output else stem.with_name(stem.name + _RESULTS)
    results.parent.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    left = "nothing was sent"
    try:
        if content:
            file_id = _upload(service, content)
            left = f"{file} was sent, and its batch may go on; `GET /v1/batches` lists it"
            batch_id = str(service.create_batch(file_id)["id"])
            print(f"embedfleet: {file} is {batch_id}", flush=True)
        fetch = f"`embedfleet batch --id {batch_id}` fetches its results"
        left = f"{batch_id} goes on; {fetch}"
        batch = _follow(service, str(batch_id))
        left = f"{batch_id} is {batch['status']}; {fetch}"
        _fetch(service, batch, results)
    except KeyboardInterrupt:
        print(f"\nembedfleet: stopped; {left}", file=sys.stderr)
        return _INTERRUPTED
    except DownloadBroken as error:
        raise ServiceError(f"{error}; run `embedfleet batch --id {batch_id}` again") from error
    return _report(batch)


def _report(batch: dict[str, Any]) -> int:
    """Prints why the batch or lines of it failed; returns the exit status."""
    for problem in (batch["errors"] or {"data": []})["data"]:
        where = f"line {problem['line']}: " if problem["line"] else ""
        print(f"embedfleet: {where}{problem['message']}", file=sys.stderr)
    if batch["status"] != "completed":
        return 1
    return _SOME_FAILED if batch["request_counts"]["failed"] else 0


def _opened(file: Path) -> BinaryIO:
    """Raises OSError, with a sentence that names the file."""
    try:
        return file.open("rb")
    except FileNotFoundError as error:
        raise OSError(f"there is no file {file}") from error
    except OSError as error:
        raise OSError(f"{file} cannot be read: {error.strerror}") from error


def _upload(service: Service, content: BinaryIO) -> str:
    """Returns the id of the file."""
    with content:
        return service.send_file(content, Path(content.name).name)


def _follow(service: Service, batch_id: str) -> dict[str, Any]:
    """Returns the batch once it is final. Raises ServiceError if the service stays away."""
    heard_at, shown = time.monotonic(), ""
    while True:
        try:
            batch = service.batch(batch_id)
            heard_at = time.monotonic()
        except ServiceError:
            if time.monotonic() - heard_at > _SILENT_S or not shown:
                raise
        else:
            shown = _show(batch, shown)
            if batch["status"] in _FINAL:
                return batch
        time.sleep(_EVERY_S)


def _show(batch: dict[str, Any], shown: str) -> str:
    """Writes the progress line, unless it says nothing new; returns it."""
    counts, is_final = batch["request_counts"], batch["status"] in _FINAL
    done = counts["completed"] + counts["failed"]
    line = f"{batch['status']}: {done} of {counts['total']} lines, {counts['failed']} with an error"
    is_terminal = sys.stderr.isatty()
    if line != shown and (is_terminal or is_final or not shown.startswith(batch["status"])):
        start, end = ("\r\033[K", "\n" if is_final else "") if is_terminal else ("", "\n")
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)
    return line


def _fetch(service: Service, batch: dict[str, Any], results: Path) -> None:
    errors = results.with_name(
        results.name.removesuffix(".jsonl").removesuffix(".output") + _ERRORS
    )
    for name, target in (("output_file_id", results), ("error_file_id", errors)):
        if (file_id := batch[name]) is None:
            continue
        partial = target.with_name(target.name + ".partial")
        with partial.open("wb") as stream:
            service.fetch_file(file_id, stream)
        partial.replace(target)
        print(target)

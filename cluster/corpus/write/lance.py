"""The Lance sink: the parts, once all are there, as one Lance dataset in one commit."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.write.output import Output

NAME = "vectors.lance"
_SCHEMES = {"local": "", "s3": "s3://", "gcs": "gs://"}
_UNLESS_FULL = r"^(?![\s\S]*No space left on device)[\s\S]*"  # before what is tried again
_S3_OPTIONS = {
    "access_key": "aws_access_key_id",
    "secret_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
    "region": "aws_region",
}


def check_lance(filesystem: Any) -> None:
    """Raises JobError when the library is missing, or is one that Ray Data cannot write with, or
    does not know the file system.

    Ray 2.60 passes ``storage_options_provider``, which pylance has had up to version 4.
    """
    install = "pip install 'pylance>=2,<5'"
    if importlib.util.find_spec("lance") is None:
        raise JobError(f"--format lance needs the package pylance: {install}")
    if not 2 <= int(version("pylance").split(".")[0]) < 5:
        raise JobError(f"this Ray cannot write with pylance {version('pylance')}: {install}")
    if filesystem.type_name not in _SCHEMES:
        raise JobError(f"--format lance writes to a disk, S3 or GCS, not {filesystem.type_name}")


def write_lance(output: Output) -> None:
    """Writes ``vectors.lance`` through Ray Data's own writer.

    Lance shows a version only once it is committed, so a job that is killed here writes it again.
    Without a row the dataset is there as well, with its columns. Raises JobError.
    """
    import ray.data
    from ray.data import SaveMode

    place = f"{_SCHEMES[output.fs.type_name]}{output.root}/{NAME}"
    options = _storage_options(output.fs)
    try:
        parts = ray.data.read_parquet(output.parts, filesystem=output.fs)
        if parts.count():
            with _a_full_disk_is_final():
                parts.write_lance(place, mode=SaveMode.OVERWRITE, storage_options=options)
        else:
            _write_empty(output, place, options)
    except Exception as error:
        raise JobError(
            f"{output.root}/{NAME} cannot be written: {error}; the parts stay, run the command again"
        ) from error


@contextmanager
def _a_full_disk_is_final() -> Iterator[None]:
    """Ray Data tries every I/O error of Lance again, for minutes; that one stays."""
    from ray.data import DataContext

    config = DataContext.get_current().lance_config
    retried = config.write_fragments_errors_to_retry
    config.write_fragments_errors_to_retry = [_UNLESS_FULL + re.escape(error) for error in retried]
    try:
        yield
    finally:
        config.write_fragments_errors_to_retry = retried


def _write_empty(output: Output, place: str, options: dict[str, str] | None) -> None:
    """What Ray's writer leaves out where there is no row."""
    import lance

    infos = output.fs.get_file_info(pafs.FileSelector(output.parts))
    with output.fs.open_input_file(next(info.path for info in infos if info.is_file)) as handle:
        empty = pq.read_schema(handle).remove_metadata().empty_table()
    lance.write_dataset(empty, place, mode="overwrite", storage_options=options)


def _storage_options(filesystem: Any) -> dict[str, str] | None:
    """What pyarrow knows of an S3 file system, in Lance's words."""
    if filesystem.type_name != "s3":
        return None
    _, (known,) = filesystem.__reduce__()
    options = {name: known[key] for key, name in _S3_OPTIONS.items() if known[key]}
    if endpoint := known["endpoint_override"]:
        url = endpoint if "://" in endpoint else f"{known['scheme']}://{endpoint}"
        options |= {"aws_endpoint": url, "allow_http": str(url.startswith("http://")).lower()}
    return options

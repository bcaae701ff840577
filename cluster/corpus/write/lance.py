"""Writes the finished parts as one Lance dataset, in one commit."""

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
# put before a pattern of errors to retry: a full disk does not match
_UNLESS_FULL = r"^(?![\s\S]*No space left on device)[\s\S]*"
_S3_OPTIONS = {
    "access_key": "aws_access_key_id",
    "secret_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
    "region": "aws_region",
}


def check_lance(filesystem: Any) -> None:
    """Raises JobError if pylance is missing or too new for Ray Data, or if Lance cannot write there.

    Ray 2.60 passes ``storage_options_provider``, which pylance accepts up to version 4.
    """
    install = "pip install 'pylance>=2,<5'"
    if importlib.util.find_spec("lance") is None:
        raise JobError(f"--format lance needs the package pylance: {install}")
    if not 2 <= int(version("pylance").split(".")[0]) < 5:
        raise JobError(f"Ray cannot write with pylance {version('pylance')}: {install}")
    if filesystem.type_name not in _SCHEMES:
        raise JobError(
            f"--format lance can write to a disk, S3 or GCS, not to {filesystem.type_name}"
        )


def write_lance(output: Output) -> None:
    """Writes ``vectors.lance`` through Ray Data's own writer.

    Lance shows a version only once it is committed, so a job that is killed here writes it again.
    The dataset is written even if it has no rows. Raises JobError.
    """
    import ray.data
    from ray.data import SaveMode

    place = f"{_SCHEMES[output.fs.type_name]}{output.root}/{NAME}"
    options = _storage_options(output.fs)
    try:
        parts = ray.data.read_parquet(output.parts, filesystem=output.fs)
        if parts.count():
            with _no_retry_on_a_full_disk():
                parts.write_lance(place, mode=SaveMode.OVERWRITE, storage_options=options)
        else:
            _write_empty(output, place, options)
    except Exception as error:
        raise JobError(
            f"{output.root}/{NAME} cannot be written: {error}; the parts are kept. Run the command again"
        ) from error


@contextmanager
def _no_retry_on_a_full_disk() -> Iterator[None]:
    """Ray Data retries every I/O error of Lance for minutes; a full disk will not change."""
    from ray.data import DataContext

    config = DataContext.get_current().lance_config
    patterns = config.write_fragments_errors_to_retry
    config.write_fragments_errors_to_retry = [_UNLESS_FULL + re.escape(error) for error in patterns]
    try:
        yield
    finally:
        config.write_fragments_errors_to_retry = patterns


def _write_empty(output: Output, place: str, options: dict[str, str] | None) -> None:
    """Ray's writer writes nothing if there are no rows."""
    import lance

    infos = output.fs.get_file_info(pafs.FileSelector(output.parts))
    with output.fs.open_input_file(next(info.path for info in infos if info.is_file)) as handle:
        empty = pq.read_schema(handle).remove_metadata().empty_table()
    lance.write_dataset(empty, place, mode="overwrite", storage_options=options)


def _storage_options(filesystem: Any) -> dict[str, str] | None:
    """The settings of pyarrow's S3 file system, under Lance's names."""
    if filesystem.type_name != "s3":
        return None
    _, (settings,) = filesystem.__reduce__()
    options = {name: settings[key] for key, name in _S3_OPTIONS.items() if settings[key]}
    if endpoint := settings["endpoint_override"]:
        url = endpoint if "://" in endpoint else f"{settings['scheme']}://{endpoint}"
        options |= {"aws_endpoint": url, "allow_http": str(url.startswith("http://")).lower()}
    return options

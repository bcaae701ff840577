"""Writes the finished parts as one Lance dataset, in one commit."""

from __future__ import annotations

import importlib.util
from typing import Any

from pyarrow import dataset as pads
from pyarrow import fs as pafs

from cluster.corpus.errors import JobError
from cluster.corpus.write.output import LANCE, Output

_BATCH_ROWS = 1_024
_READ_AHEAD = 2  # batches and files; pyarrow's own defaults hold hundreds of MB
_SCHEMES = {"local": "", "s3": "s3://", "gcs": "gs://"}
_S3_OPTIONS = {
    "access_key": "aws_access_key_id",
    "secret_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
    "region": "aws_region",
}


def check_lance(filesystem: Any) -> None:
    """Raises JobError if pylance is missing, or if Lance cannot write there."""
    if importlib.util.find_spec("lance") is None:
        raise JobError("--format lance needs the package pylance: pip install 'pylance>=2'")
    if filesystem.type_name not in _SCHEMES:
        raise JobError(
            f"--format lance can write to a disk, S3 or GCS, not to {filesystem.type_name}"
        )


def write_lance(output: Output) -> None:
    """Writes ``vectors.lance`` if there are vectors.

    Lance shows a version only once it is committed, so a job that is killed here writes it again.
    Raises JobError.
    """
    import lance

    place = f"{_SCHEMES[output.fs.type_name]}{output.root}/{LANCE}"
    try:
        if reader := _parts(output):
            options = _storage_options(output.fs)
            lance.write_dataset(reader, place, mode="overwrite", storage_options=options)
    except Exception as error:
        raise JobError(
            f"{output.root}/{LANCE} cannot be written: {error}; the parts are kept. Run the command again"
        ) from error


def _parts(output: Output) -> Any:
    """A reader of all rows, in the order of the parts; None if no row was encoded."""
    infos = output.fs.get_file_info(pafs.FileSelector(output.parts))
    if not (files := sorted(info.path for info in infos if info.is_file)):
        return None
    parts = pads.dataset(files, format="parquet", filesystem=output.fs)
    schema = parts.schema.remove_metadata()  # the counts of one part
    scanner = parts.replace_schema(schema).scanner(
        batch_size=_BATCH_ROWS, batch_readahead=_READ_AHEAD, fragment_readahead=_READ_AHEAD
    )
    return scanner.to_reader()


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

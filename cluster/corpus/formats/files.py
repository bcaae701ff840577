"""One input file: its name, its state and its format, on any pyarrow file system."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs as pafs

from cluster.corpus.errors import JobError

_NS_PER_S = 1_000_000_000
FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "json",
    ".jsonlines": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
}
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
# a data file with one of these at its end holds rows that would be missed
_OTHER_COMPRESSIONS = (".xz", ".lzma", ".lz4", ".br", ".snappy", ".sz", ".z", ".zip", ".7z", ".rar")


@dataclass(frozen=True)
class InputFile:
    """One file. ``name`` is its path below the corpus, ``modified`` nanoseconds, ``size`` bytes.

    ``delimiter`` stands between the fields of a CSV file.
    """

    path: str
    name: str
    size: int
    modified: int
    format: str
    compression: str | None = None
    delimiter: str = ","

    @property
    def digest(self) -> str:
        """Changes when the file changes."""
        return file_digest(self.name, self.size, self.modified)


def file_digest(name: str, size: int, modified: int) -> str:
    """Returns twelve hex digits for one state of a file."""
    return hashlib.sha256(json.dumps((name, size, modified)).encode()).hexdigest()[:12]


def format_of(path: str) -> tuple[str | None, str | None]:
    """Returns the format and the compression that a file's endings name, or None for each."""
    ending, compression = _endings(path, _COMPRESSIONS)
    return FORMATS.get(ending), _COMPRESSIONS.get(compression)


def unreadable_compression(path: str) -> str | None:
    """Returns the ending of a data file whose compression cannot be read; None for other files."""
    ending, compression = _endings(path, _OTHER_COMPRESSIONS)
    return compression if compression and ending in FORMATS else None


def delimiter_of(path: str) -> str:
    """Returns what stands between the fields of a CSV file of this name."""
    return "\t" if _endings(path, _COMPRESSIONS)[0] == ".tsv" else ","


def _endings(path: str, compressions: Collection[str]) -> tuple[str, str]:
    """Returns a name's ending and, behind it, that of a compression, in lower case; "" for none."""
    name = PurePosixPath(path.lower())
    if name.suffix in compressions:
        return name.with_suffix("").suffix, name.suffix
    return name.suffix, ""


def resolve(location: str) -> tuple[Any, str]:
    """Returns the file system of a path or URI, and the path on it. Raises JobError."""
    try:
        location.encode()
        if "://" in location:
            filesystem, path = pafs.FileSystem.from_uri(location)
            return _with_keys(filesystem), path
        return pafs.LocalFileSystem(), str(Path(location).expanduser().absolute())
    except UnicodeEncodeError as error:
        raise JobError(f"the path {location!r} is not valid UTF-8: rename it") from error
    except (ValueError, OSError) as error:
        raise JobError(f"pyarrow has no file system for {location}: {error}") from error


def _with_keys(filesystem: Any) -> Any:
    """Adds this process's AWS keys to an S3 file system: a worker's environment may lack them."""
    key, secret = (os.environ.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
    if filesystem.type_name != "s3" or not key or not secret:
        return filesystem
    create, (options,) = filesystem.__reduce__()
    if options["access_key"] or options["anonymous"]:
        return filesystem
    token = os.environ.get("AWS_SESSION_TOKEN")
    return create({**options, "access_key": key, "secret_key": secret, "session_token": token})


def check_unchanged(filesystem: Any, file: InputFile) -> None:
    """Raises JobError if a file is no longer in the state that was planned.

    Object stores give a file's time with fractions of a second in a listing, but without them when a
    single file is looked up.
    """
    info = filesystem.get_file_info(file.path)
    difference = abs((info.mtime_ns or 0) - file.modified)
    same_time = difference == 0 if filesystem.type_name == "local" else difference < _NS_PER_S
    if info.size == file.size and same_time:
        return
    raise JobError(
        f"{file.path} has changed while it was read; what is committed of it is from before the "
        "change. Run the command again: it reads the new file if nothing of the old one was "
        "committed, and otherwise asks for another OUTPUT"
    )

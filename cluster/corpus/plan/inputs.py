"""Finds the files of a corpus, on any pyarrow file system, and tells their format."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs as pafs

from cluster.corpus.errors import JobError

_NS = 1_000_000_000
FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".txt": "text",
}
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


@dataclass(frozen=True)
class InputFile:
    """One file. ``name`` is its path below the corpus, ``modified`` nanoseconds, ``size`` bytes."""

    path: str
    name: str
    size: int
    modified: int
    format: str
    compression: str | None = None

    @property
    def digest(self) -> str:
        """What changes when the file does."""
        return file_digest(self.name, self.size, self.modified)


def file_digest(name: str, size: int, modified: int) -> str:
    """Returns twelve hex digits for one state of a file."""
    return hashlib.sha256(json.dumps((name, size, modified)).encode()).hexdigest()[:12]


def resolve(location: str) -> tuple[Any, str]:
    """Returns the file system of a path or URI, and the path on it. Raises JobError."""
    try:
        location.encode()
        if "://" in location:
            filesystem, path = pafs.FileSystem.from_uri(location)
            return _with_keys(filesystem), path
        return pafs.LocalFileSystem(), str(Path(location).expanduser().absolute())
    except UnicodeEncodeError as error:
        raise JobError(f"{location!r} is not UTF-8: rename it") from error
    except (ValueError, OSError) as error:
        raise JobError(f"{location} is on no file system that pyarrow knows: {error}") from error


def _with_keys(filesystem: Any) -> Any:
    """The same, with the AWS keys of this process's environment, which that of a worker may lack."""
    key, secret = (os.environ.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
    if filesystem.type_name != "s3" or not key or not secret:
        return filesystem
    made, (options,) = filesystem.__reduce__()
    if options["access_key"] or options["anonymous"]:
        return filesystem
    token = os.environ.get("AWS_SESSION_TOKEN")
    return made({**options, "access_key": key, "secret_key": secret, "session_token": token})


def find_inputs(
    location: str, wanted: str | None = None, output: str | None = None
) -> tuple[Any, list[InputFile]]:
    """Returns the file system and the files, by name. ``wanted`` overrides what endings say.

    Nothing below ``output`` is taken where that folder lies within the corpus. Raises JobError when
    there are no files, or they are of several formats.
    """
    filesystem, path = resolve(location)
    try:
        base, found = _listed(filesystem, path)
    except UnicodeDecodeError as error:
        raise JobError(f"{error.object!r} is no file name in UTF-8: rename it") from error
    except OSError as error:
        raise JobError(f"{location} cannot be read: {error}") from error
    alone = len(found) == 1 and found[0].path == path
    own = _place_below(base, filesystem, output)
    names = [_name(info.path, base) for info in found]
    meant = [i for i, n in zip(found, names, strict=True) if alone or _meant(n, wanted, own)]
    files = [_describe(info, base, wanted) for info in meant]
    if not files:
        raise JobError(
            f"{location} holds no file to encode; files end in {', '.join(FORMATS)}, or set "
            "--input-format"
        )
    if len(formats := sorted({file.format for file in files})) > 1:
        raise JobError(
            f"{location} mixes {' and '.join(formats)} files: give a glob for one of them"
        )
    return filesystem, sorted(files, key=lambda file: file.name)


def check_unchanged(filesystem: Any, file: InputFile) -> None:
    """Raises JobError when a file is no longer the one that was found.

    Stores tell the time of a file with its fractions in a list, and without where it is asked for.
    """
    info = filesystem.get_file_info(file.path)
    apart = abs((info.mtime_ns or 0) - file.modified)
    same_time = apart == 0 if filesystem.type_name == "local" else apart < _NS
    if info.size == file.size and same_time:
        return
    raise JobError(
        f"{file.path} has changed while it was read; what is committed of it is as it was before. Run "
        "the command again: it takes the file as it is now if nothing of it was committed, and else "
        "asks for another OUTPUT"
    )


def format_of(path: str) -> tuple[str | None, str | None]:
    """Returns format and compression by a file's endings; None for what they do not tell."""
    name = PurePosixPath(path)
    compression = _COMPRESSED.get(name.suffix.lower())
    ending = name.with_suffix("").suffix if compression else name.suffix
    return FORMATS.get(ending.lower()), compression


def matches(pattern: str, path: str) -> bool:
    """Whether a glob means a path: ``*`` and ``?`` within a folder, ``**/`` across folders."""
    parts = re.split(r"(\*\*/|\*|\?)", pattern)
    words = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return re.fullmatch("".join(words.get(p, re.escape(p)) for p in parts), path) is not None


def _listed(filesystem: Any, path: str) -> tuple[str, list[Any]]:
    if re.search(r"[*?]", path):
        base = re.split(r"[*?]", path, maxsplit=1)[0].rpartition("/")[0]
        infos = _below(filesystem, base or "/")
        return base, [i for i in infos if matches(path, i.path)]
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise JobError(f"there is no {path}")
    if info.is_file:
        return path.rpartition("/")[0], [info]
    return path, _below(filesystem, path)


def _below(filesystem: Any, folder: str) -> list[Any]:
    """The files of a folder, without those behind a link that leads back up."""
    infos = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
    files = [info for info in infos if info.is_file]
    if filesystem.type_name != "local":
        return files
    loops = {place: _loops(folder, place) for place in {_folder(info) for info in files}}
    return [info for info in files if not loops[_folder(info)]]


def _folder(info: Any) -> str:
    return str(info.path).rpartition("/")[0]


def _loops(top: str, folder: str) -> bool:
    place = PurePosixPath(folder)
    way = [place, *(above for above in place.parents if above.is_relative_to(top))]
    return len({os.path.realpath(step) for step in way}) < len(way)


def _name(path: str, base: str) -> str:
    return path.removeprefix(base).lstrip("/")


def _place_below(base: str, filesystem: Any, folder: str | None) -> str | None:
    """Returns a folder's name below ``base``, with a slash behind it; None when it is not there."""
    if folder is None:
        return None
    other, path = resolve(folder)
    real = os.path.realpath if other.type_name == "local" else os.path.normpath
    place = os.path.relpath(real(path), real(base or "/"))
    if other.type_name != filesystem.type_name or place.split("/")[0] in (".", ".."):
        return None
    return f"{place}/"


def _meant(name: str, wanted: str | None, own: str | None) -> bool:
    """As Spark and pyarrow have it: nothing within a folder whose name starts so, either."""
    hidden = any(part.startswith(("_", ".")) for part in PurePosixPath(name).parts)
    if hidden or (own is not None and name.startswith(own)):
        return False
    return wanted is not None or format_of(name)[0] is not None


def _describe(info: Any, base: str, wanted: str | None) -> InputFile:
    found, compression = format_of(info.path)
    if (wanted or found) is None:
        raise JobError(f"{info.path}: its ending tells no format; set --input-format")
    return InputFile(
        path=info.path,
        name=_name(info.path, base),
        size=info.size,
        modified=info.mtime_ns or 0,
        format=wanted or found or "",
        compression=compression,
    )

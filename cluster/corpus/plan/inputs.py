"""Finds the files of a corpus."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pyarrow import fs as pafs

from cluster.corpus.errors import JobError
from cluster.corpus.formats.files import (
    FORMATS,
    InputFile,
    delimiter_of,
    format_of,
    resolve,
    unreadable_compression,
)
from cluster.corpus.plan.parts import PART_NAME
from cluster.corpus.settings import JOB_SUFFIX

# what `write/output.py` and `write/lock.py` put beside an output: rejects look like data, and are none
_IN_JOB_FOLDER = re.compile(
    rf"[^/]{re.escape(JOB_SUFFIX)}/(manifest\.json|(rejects|parts)/{PART_NAME}|(tmp|locks)/[^/]+)$"
)


class Inputs(NamedTuple):
    """The files of a corpus, and the names of those that are not read, by the reason."""

    filesystem: Any
    files: list[InputFile]
    skipped: Mapping[str, list[str]]

    @property
    def not_read(self) -> str | None:
        """Which files are not read, in a line; None if all are."""
        count = sum(map(len, self.skipped.values()))
        reasons = ", ".join(f"{len(names):,} {why}" for why, names in sorted(self.skipped.items()))
        return f"{count:,} file{'' if count == 1 else 's'} not read: {reasons}" if count else None


def find_inputs(
    location: str,
    input_format: str | None = None,
    output: str | None = None,
    delimiter: str | None = None,
) -> Inputs:
    """Returns the files of a corpus, sorted by name.

    ``input_format`` and ``delimiter`` override what the files' endings say. If the folder ``output``
    lies inside the corpus, it and its job folder are ignored. Job folders of other outputs are skipped.
    Raises JobError if there are no files, if their formats differ, or if a data file cannot be opened.
    """
    filesystem, path = resolve(location)
    try:
        base, infos = _list_files(filesystem, path)
    except UnicodeEncodeError as error:
        name = os.fsencode(error.object)
        raise JobError(f"the file name {name!r} is not valid UTF-8: rename it") from error
    except OSError as error:
        raise JobError(f"{location} cannot be read: {error}") from error
    skipped: dict[str, list[str]] = {}
    if not (
        len(infos) == 1 and infos[0].path == path
    ):  # a file that is named itself is always read
        own = _places_below(base, filesystem, output)
        infos = [info for info in infos if not _name(info.path, base).startswith(own)]
        infos = [i for i in infos if not _skip(_name(i.path, base), i, input_format, skipped)]
    files = [_describe(info, base, input_format, delimiter) for info in infos]
    inputs = Inputs(filesystem, sorted(files, key=lambda file: file.name), skipped)
    if not files:
        raise JobError(
            f"{location} holds no input files: their names must end in {', '.join(FORMATS)}, or "
            f"set --input-format{f' ({inputs.not_read})' if inputs.not_read else ''}"
        )
    _check_formats(inputs, location, delimiter)
    return inputs


def _check_formats(inputs: Inputs, location: str, delimiter: str | None) -> None:
    formats = sorted({file.format for file in inputs.files})
    if len(formats) > 1:
        raise JobError(
            f"{location} mixes {' and '.join(formats)} files: give a glob that matches one format"
        )
    if delimiter and formats != ["csv"]:
        raise JobError(f"--delimiter is for CSV, and {location} holds {formats[0]} files: drop it")


def matches(pattern: str, path: str) -> bool:
    """Whether a glob matches a path: ``*`` and ``?`` within a folder, ``**/`` across folders."""
    pieces = re.split(r"(\*\*/|\*|\?)", pattern)
    wildcards = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    regex = "".join(wildcards.get(piece, re.escape(piece)) for piece in pieces)
    return re.fullmatch(regex, path) is not None


def _list_files(filesystem: Any, path: str) -> tuple[str, list[Any]]:
    """Returns the folder that names are relative to, and pyarrow's FileInfo of each file."""
    if re.search(r"[*?]", path):
        base = re.split(r"[*?]", path, maxsplit=1)[0].rpartition("/")[0]
        infos = _files_below(filesystem, base or "/")
        return base, [info for info in infos if matches(path, info.path)]
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        if os.path.islink(path):
            return path.rpartition("/")[0], [info]
        raise JobError(f"there is no {path}")
    if info.type != pafs.FileType.Directory:
        return path.rpartition("/")[0], [info]
    return path, _files_below(filesystem, path)


def _files_below(filesystem: Any, folder: str) -> list[Any]:
    """Pyarrow's FileInfo of everything in a folder that is no folder."""
    if filesystem.type_name == "local":
        infos: list[Any] = filesystem.get_file_info([*_paths_below(folder, frozenset())])
        return infos
    infos = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
    return [info for info in infos if info.type != pafs.FileType.Directory]


def _paths_below(folder: str, above: frozenset[str]) -> Iterator[str]:
    """Links to folders are followed, except those that lead back up; ``above`` are the folders there."""
    if (real := os.path.realpath(folder)) in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _paths_below(entry.path, above | {real})
            else:
                entry.path.encode()
                yield entry.path


def _name(path: str, base: str) -> str:
    return path.removeprefix(base).lstrip("/")


def _places_below(base: str, filesystem: Any, folder: str | None) -> tuple[str, ...]:
    """The names of an output and of its job folder relative to ``base``; none if they are outside."""
    if folder is None:
        return ()
    other, path = resolve(folder)
    real = os.path.realpath if other.type_name == "local" else os.path.normpath
    place = os.path.relpath(real(path), real(base or "/"))
    if other.type_name != filesystem.type_name or place.split("/")[0] in (".", ".."):
        return ()
    return f"{place}/", f"{place}{JOB_SUFFIX}/"


def _skip(name: str, info: Any, input_format: str | None, skipped: dict[str, list[str]]) -> bool:
    """Whether a file is not read, with its name and the reason added to ``skipped``."""
    reason = _why_skipped(name, info, input_format)
    if reason is not None:
        skipped.setdefault(reason, []).append(name)
    return reason is not None


def _why_skipped(name: str, info: Any, input_format: str | None) -> str | None:
    # as in Spark and pyarrow
    if any(part.startswith(("_", ".")) for part in PurePosixPath(name).parts):
        return "hidden"
    if _IN_JOB_FOLDER.search(name):
        return "in the job folder of another output"
    if input_format is not None or format_of(name)[0] is not None or unreadable_compression(name):
        return None
    if not info.is_file:
        return "broken links" if os.path.islink(info.path) else "special files"
    return PurePosixPath(name).suffix or "without an ending"


def _describe(info: Any, base: str, input_format: str | None, delimiter: str | None) -> InputFile:
    _check_openable(info)
    by_name, compression = format_of(info.path)
    if (input_format or by_name) is None:
        raise JobError(f"the name of {info.path} does not tell its format: set --input-format")
    return InputFile(
        path=info.path,
        name=_name(info.path, base),
        size=info.size,
        modified=info.mtime_ns or 0,
        format=input_format or by_name or "",
        compression=compression,
        delimiter=delimiter or delimiter_of(info.path),
    )


def _check_openable(info: Any) -> None:
    if (ending := unreadable_compression(info.path)) is not None:
        raise JobError(
            f"{info.path} cannot be read: the compression {ending} is not supported. Compress the file "
            "with gzip, bzip2 or zstd, or move it away"
        )
    if not info.is_file:
        what = "a broken link" if os.path.islink(info.path) else "not a regular file"
        raise JobError(f"{info.path} cannot be read: it is {what}. Fix it or remove it")

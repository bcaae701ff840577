"""Finds the files of a corpus."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs as pafs

from cluster.corpus.errors import JobError
from cluster.corpus.formats.files import FORMATS, InputFile, format_of, resolve


def find_inputs(
    location: str, input_format: str | None = None, output: str | None = None
) -> tuple[Any, list[InputFile]]:
    """Returns the file system and the files, sorted by name.

    ``input_format`` overrides what the files' endings say. If the folder ``output`` lies inside the
    corpus, it is skipped. Raises JobError if there are no files, or files of several formats.
    """
    filesystem, path = resolve(location)
    try:
        base, infos = _list_files(filesystem, path)
    except UnicodeDecodeError as error:
        raise JobError(f"the file name {error.object!r} is not valid UTF-8: rename it") from error
    except OSError as error:
        raise JobError(f"{location} cannot be read: {error}") from error
    if not (
        len(infos) == 1 and infos[0].path == path
    ):  # a file that is named itself is always read
        skipped = _place_below(base, filesystem, output)
        infos = [i for i in infos if _is_input(_name(i.path, base), input_format, skipped)]
    files = [_describe(info, base, input_format) for info in infos]
    if not files:
        raise JobError(
            f"{location} holds no input files: their names must end in {', '.join(FORMATS)}, or "
            "set --input-format"
        )
    if len(formats := sorted({file.format for file in files})) > 1:
        raise JobError(
            f"{location} mixes {' and '.join(formats)} files: give a glob that matches one format"
        )
    return filesystem, sorted(files, key=lambda file: file.name)


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
        raise JobError(f"there is no {path}")
    if info.is_file:
        return path.rpartition("/")[0], [info]
    return path, _files_below(filesystem, path)


def _files_below(filesystem: Any, folder: str) -> list[Any]:
    """The files of a folder, except those behind a link that leads back up."""
    infos = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
    files = [info for info in infos if info.is_file]
    if filesystem.type_name != "local":
        return files
    is_loop = {parent: _is_loop(folder, parent) for parent in {_parent(info) for info in files}}
    return [info for info in files if not is_loop[_parent(info)]]


def _parent(info: Any) -> str:
    return str(info.path).rpartition("/")[0]


def _is_loop(top: str, folder: str) -> bool:
    path = PurePosixPath(folder)
    steps = [path, *(parent for parent in path.parents if parent.is_relative_to(top))]
    return len({os.path.realpath(step) for step in steps}) < len(steps)


def _name(path: str, base: str) -> str:
    return path.removeprefix(base).lstrip("/")


def _place_below(base: str, filesystem: Any, folder: str | None) -> str | None:
    """Returns a folder's name relative to ``base``, with a slash at its end; None if outside."""
    if folder is None:
        return None
    other, path = resolve(folder)
    real = os.path.realpath if other.type_name == "local" else os.path.normpath
    place = os.path.relpath(real(path), real(base or "/"))
    if other.type_name != filesystem.type_name or place.split("/")[0] in (".", ".."):
        return None
    return f"{place}/"


def _is_input(name: str, input_format: str | None, skipped: str | None) -> bool:
    """Hidden files and folders are skipped, as in Spark and pyarrow."""
    hidden = any(part.startswith(("_", ".")) for part in PurePosixPath(name).parts)
    if hidden or (skipped is not None and name.startswith(skipped)):
        return False
    return input_format is not None or format_of(name)[0] is not None


def _describe(info: Any, base: str, input_format: str | None) -> InputFile:
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
    )

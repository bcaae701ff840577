"""The output folder: parts that are complete or absent, their rejects, and the manifest.

    OUTPUT/part-….parquet           id, kept columns, embedding; model and counts in its metadata
    OUTPUT/_rejects/part-….parquet  id, source, position, reason, text
    OUTPUT/_manifest.json           see `manifest.py`
    OUTPUT/_tmp/                    files that are being written

Readers skip names that start with an underscore, so ``OUTPUT`` is a plain Parquet dataset. Every file is
written to ``_tmp`` and then moved into place, a part's rejects before its vectors. The file of vectors
is the commit: if it is there, the part is done; if not, the part is encoded again.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.rejects import reject_table
from cluster.corpus.write.manifest import FILE, Counts, Identity, Manifest

REJECTS = "_rejects"
LANCE_PARTS = "_parts"
_PARTS = ("", LANCE_PARTS)  # the folders of the parts, by format
_TMP = "_tmp"
_KEY = b"embedfleet"
_PROBE_BYTES = 1 << 16
_PART = re.compile(r"part-([0-9a-f]{12})-\d{14,}\.parquet")
_VECTORS = "embedding.list.element"  # the name of the column in Parquet


class Output:
    """One output folder. Picklable."""

    def __init__(self, filesystem: Any, root: str, parts: str = "") -> None:
        """``parts`` is the folder of the parts, relative to ``root``."""
        self.fs = filesystem
        self.root = root.rstrip("/")
        self.parts = f"{self.root}/{parts}".rstrip("/")

    def prepare(self) -> None:
        """Creates the folders. Raises JobError if they cannot be written to."""
        with self.writing():
            for folder in (self.root, self.parts, f"{self.root}/{REJECTS}", f"{self.root}/{_TMP}"):
                self.fs.create_dir(folder, recursive=True)
            self._put(f"{self.root}/{_TMP}/probe", bytes(_PROBE_BYTES))
            self.fs.delete_file(f"{self.root}/{_TMP}/probe")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns an OSError of the block into a JobError."""
        try:
            yield
        except OSError as error:
            raise JobError(
                f"{self.root} cannot be written to: {error}; all files in it are complete. Run the same "
                "command again to continue"
            ) from error

    def manifest(self) -> Manifest | None:
        """Returns the manifest; None if no run has started here.

        Raises JobError if it cannot be read, or if there is none and the folder holds other files.
        """
        path = f"{self.root}/{FILE}"
        info = self.fs.get_file_info(path)
        if not info.is_file:
            self._refuse_foreign()
            return None
        with self.fs.open_input_file(path) as handle:
            return Manifest.from_json(handle.read())

    def committed_files(self) -> set[str]:
        """Returns the `InputFile.digest` of each input file with a committed part or rejects."""
        folders = [f"{self.root}/{name}".rstrip("/") for name in (*_PARTS, REJECTS)]
        selectors = [pafs.FileSelector(folder, allow_not_found=True) for folder in folders]
        infos = [info for selector in selectors for info in self.fs.get_file_info(selector)]
        names = [_PART.fullmatch(info.base_name) for info in infos if info.is_file]
        return {name[1] for name in names if name}

    def write_manifest(self, manifest: Manifest) -> None:
        """Replaces the manifest atomically. Raises JobError."""
        with self.writing():
            self._put(f"{self.root}/{FILE}", manifest.as_json())

    def committed_counts(self, name: str, identity: Identity) -> Counts | None:
        """Returns the counts of a committed part; None if there is none, or its file is incomplete.

        Raises JobError if its vectors are not those of ``identity``.
        """
        if (about := self._metadata(name)) is None:
            return None
        if differing := identity.differing(about):
            raise JobError(
                f"{self.parts}/{name} holds vectors with another {' and '.join(differing)}: "
                "choose another OUTPUT"
            )
        return Counts(**about["counts"])

    def vectors(self, name: str) -> Any:
        """Returns the table of a committed part."""
        with self.fs.open_input_file(f"{self.parts}/{name}") as handle:
            return pq.ParquetFile(handle).read()

    def ids(self, name: str) -> list[Any]:
        """Returns the input's id of each row of a committed part."""
        with self.fs.open_input_file(f"{self.parts}/{name}") as handle:
            file = pq.ParquetFile(handle)
            return ids_of(file.read([_id_column(file.schema_arrow.names)]))

    def rejects(self, name: str) -> Any:
        """Returns the table of a part's rejects, which may be empty."""
        path = f"{self.root}/{REJECTS}/{name}"
        if not self.fs.get_file_info(path).is_file:
            return reject_table([])
        with self.fs.open_input_file(path) as handle:
            return pq.ParquetFile(handle).read()

    def commit(
        self, name: str, vectors: Any, rejects: Any, identity: Identity, counts: Counts
    ) -> None:
        """Writes a part's rejects and then its vectors (Arrow tables). Raises JobError."""
        about = json.dumps({**asdict(identity), "counts": asdict(counts)})
        vectors = vectors.replace_schema_metadata({_KEY: about.encode()})
        with self.writing():
            if rejects.num_rows:
                self._put(f"{self.root}/{REJECTS}/{name}", _as_parquet(rejects))
            else:  # an attempt that was killed may have left some
                self._remove(f"{self.root}/{REJECTS}/{name}")
            self._put(f"{self.parts}/{name}", _as_parquet(vectors))

    def clean(self) -> None:
        """Removes the unfinished files of writers that were killed. Raises JobError."""
        with self.writing():
            self.fs.delete_dir_contents(f"{self.root}/{_TMP}", missing_dir_ok=True)
            self.fs.delete_dir(f"{self.root}/{_TMP}")

    def _metadata(self, name: str) -> dict[str, Any] | None:
        """A part's metadata; None if there is no such file, or it is not one of this program."""
        path = f"{self.parts}/{name}"
        if not self.fs.get_file_info(path).is_file:
            return None
        with suppress(pa.ArrowInvalid), self.fs.open_input_file(path) as handle:
            metadata = pq.read_schema(handle).metadata or {}
            about: dict[str, Any] | None = json.loads(metadata.get(_KEY, b"null"))
            return about
        return None  # a power failure may leave an empty file

    def _put(self, path: str, data: Any) -> None:
        draft = f"{self.root}/{_TMP}/{uuid.uuid4().hex}"
        try:
            with self.fs.open_output_stream(draft) as stream:
                stream.write(data)
            self._sync(draft)
            self.fs.move(draft, path)
            with suppress(OSError):  # not every file system can sync a folder
                self._sync(path.rpartition("/")[0])
        except OSError:
            self._remove(draft)
            raise

    def _sync(self, path: str) -> None:
        """Waits until a local file or folder is on disk. Object stores need no sync."""
        if self.fs.type_name != "local":
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _remove(self, path: str) -> None:
        if self.fs.get_file_info(path).is_file:
            self.fs.delete_file(path)

    def _refuse_foreign(self) -> None:
        selector = pafs.FileSelector(self.root, allow_not_found=True)
        try:
            names = [i.base_name for i in self.fs.get_file_info(selector)]
            committed = self.committed_files()
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"{self.root} cannot be used as OUTPUT: {error}") from error
        if committed:
            raise JobError(
                f"{self.root} holds parts of a job but no {FILE}: choose an empty folder"
            )
        if foreign := [name for name in names if not name.startswith((".", "_"))]:
            raise JobError(
                f"{self.root} holds other files ({foreign[0]}) but no {FILE}: choose an empty folder"
            )


def ids_of(table: Any) -> list[Any]:
    """Returns the input's id of each row of a part's table."""
    ids: list[Any] = table[_id_column(table.column_names)].to_pylist()
    return ids


def _id_column(names: list[str]) -> str:
    return "document_id" if "document_id" in names else "id"


def vector_column(vectors: Any, dtype: str) -> Any:
    """Returns float32 vectors ``(rows, dimensions)`` as an Arrow column of fixed-size lists."""
    flat = pa.array(vectors.astype(dtype, copy=False).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def _as_parquet(table: Any) -> Any:
    sink = pa.BufferOutputStream()
    # vectors do not compress, with or without a dictionary
    others = [path for path in _leaves(table.schema) if path != _VECTORS]
    codec = {_VECTORS: "none", **dict.fromkeys(others, "snappy")}
    pq.write_table(table, sink, use_dictionary=others, compression=codec)
    return sink.getvalue()


def _leaves(schema: Any) -> list[str]:
    """The column names in Parquet, where a nested column is several."""
    sink = pa.BufferOutputStream()
    pq.write_metadata(schema, sink)
    columns = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [columns.column(n).path for n in range(len(columns))]

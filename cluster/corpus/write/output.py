"""The output folder: parts that are there whole or not at all, rejects and the manifest.

    OUTPUT/part-….parquet           id, kept columns, embedding; what the file is in its metadata
    OUTPUT/_rejects/part-….parquet  id, source, position, reason, text
    OUTPUT/_manifest.json           see `manifest.py`
    OUTPUT/_tmp/                    what is being written

Readers skip names that start with an underscore, so ``OUTPUT`` is a plain Parquet dataset. A part's
rejects are moved into place before its vectors: once the vectors stand there, the part is done.
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
from cluster.corpus.write.manifest import FILE, Counts, Identity, Manifest

REJECTS = "_rejects"
LANCE_PARTS = "_parts"
_PARTS = ("", LANCE_PARTS)  # where the formats have their parts
_TMP = "_tmp"
_KEY = b"embedfleet"
_PROBE_BYTES = 1 << 16
_PART = re.compile(r"part-([0-9a-f]{12})-\d{14,}\.parquet")
_VECTORS = "embedding.list.element"  # as Parquet calls the column
_REJECT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("position", pa.int64()),
        ("reason", pa.string()),
        ("text", pa.string()),
    ]
)


class Output:
    """One output folder. Picklable."""

    def __init__(self, filesystem: Any, root: str, parts: str = "") -> None:
        """``parts`` is the folder below ``root`` that the parts go to."""
        self.fs = filesystem
        self.root = root.rstrip("/")
        self.parts = f"{self.root}/{parts}".rstrip("/")

    def prepare(self) -> None:
        """Makes the folders. Raises JobError when nothing can be written there."""
        with self.writing():
            for folder in (self.root, self.parts, f"{self.root}/{REJECTS}", f"{self.root}/{_TMP}"):
                self.fs.create_dir(folder, recursive=True)
            self._put(f"{self.root}/{_TMP}/probe", bytes(_PROBE_BYTES))
            self.fs.delete_file(f"{self.root}/{_TMP}/probe")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raises JobError for an OSError of what is written within."""
        try:
            yield
        except OSError as error:
            raise JobError(
                f"{self.root} cannot be written to: {error}; what stands there is whole, and the "
                "same command goes on from it"
            ) from error

    def manifest(self) -> Manifest | None:
        """Returns the manifest, if a run has begun here.

        Raises JobError when it cannot be read, or there is none and the folder holds other files.
        """
        path = f"{self.root}/{FILE}"
        info = self.fs.get_file_info(path)
        if not info.is_file:
            self._refuse_foreign()
            return None
        with self.fs.open_input_file(path) as handle:
            return Manifest.from_json(handle.read())

    def begun(self) -> set[str]:
        """Returns the `InputFile.digest` of each file of which anything is committed, by any format."""
        folders = [f"{self.root}/{name}".rstrip("/") for name in (*_PARTS, REJECTS)]
        selectors = [pafs.FileSelector(folder, allow_not_found=True) for folder in folders]
        infos = [info for selector in selectors for info in self.fs.get_file_info(selector)]
        names = [_PART.fullmatch(info.base_name) for info in infos if info.is_file]
        return {name[1] for name in names if name}

    def write_manifest(self, manifest: Manifest) -> None:
        """Replaces the manifest as a whole. Raises JobError."""
        with self.writing():
            self._put(f"{self.root}/{FILE}", manifest.as_json())

    def done(self, name: str, identity: Identity) -> Counts | None:
        """Returns the counts of a part that is done; None when it is not, or not a whole file.

        Raises JobError when its vectors are not those of ``identity``.
        """
        if (about := self._about(name)) is None:
            return None
        if differing := identity.differing(about):
            raise JobError(
                f"{self.parts}/{name} holds vectors of another {' and '.join(differing)}: "
                "choose another OUTPUT"
            )
        return Counts(**about["counts"])

    def vectors(self, name: str) -> Any:
        """Returns the table of a part that is done."""
        with self.fs.open_input_file(f"{self.parts}/{name}") as handle:
            return pq.ParquetFile(handle).read()

    def ids(self, name: str) -> list[Any]:
        """Returns the ids of the rows that a part was made of, one for each row of its table."""
        with self.fs.open_input_file(f"{self.parts}/{name}") as handle:
            file = pq.ParquetFile(handle)
            return ids_of(file.read([_id_column(file.schema_arrow.names)]))

    def rejects(self, name: str) -> Any:
        """Returns the table of a part's rejects, which is empty when there are none."""
        path = f"{self.root}/{REJECTS}/{name}"
        if not self.fs.get_file_info(path).is_file:
            return reject_table([])
        with self.fs.open_input_file(path) as handle:
            return pq.ParquetFile(handle).read()

    def commit(self, name: str, vectors: Any, rejects: Any, identity: Identity, c: Counts) -> None:
        """Writes a part's vectors and rejects (Arrow tables). Raises JobError."""
        about = json.dumps({**asdict(identity), "counts": asdict(c)})
        described = vectors.replace_schema_metadata({_KEY: about.encode()})
        with self.writing():
            if rejects.num_rows:
                self._put(f"{self.root}/{REJECTS}/{name}", _as_parquet(rejects))
            else:  # an attempt that was killed may have had some
                self._remove(f"{self.root}/{REJECTS}/{name}")
            self._put(f"{self.parts}/{name}", _as_parquet(described))

    def clean(self) -> None:
        """Removes what killed writers have left. Raises JobError."""
        with self.writing():
            self.fs.delete_dir_contents(f"{self.root}/{_TMP}", missing_dir_ok=True)
            self.fs.delete_dir(f"{self.root}/{_TMP}")

    def _about(self, name: str) -> dict[str, Any] | None:
        """What a part's metadata says, if there is such a file and it is one of ours."""
        path = f"{self.parts}/{name}"
        if not self.fs.get_file_info(path).is_file:
            return None
        with suppress(pa.ArrowInvalid), self.fs.open_input_file(path) as handle:
            metadata = pq.read_schema(handle).metadata or {}
            about: dict[str, Any] | None = json.loads(metadata.get(_KEY, b"null"))
            return about
        return None  # a machine that lost its power may leave an empty file

    def _put(self, path: str, data: Any) -> None:
        draft = f"{self.root}/{_TMP}/{uuid.uuid4().hex}"
        try:
            with self.fs.open_output_stream(draft) as stream:
                stream.write(data)
            self._sync(draft)
            self.fs.move(draft, path)
            with suppress(OSError):  # not every file system knows this of a folder
                self._sync(path.rpartition("/")[0])
        except OSError:
            self._remove(draft)
            raise

    def _sync(self, path: str) -> None:
        """Waits until a local file or folder is on its disk; others keep what they have taken."""
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
            begun = self.begun()
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"{self.root} cannot be used as OUTPUT: {error}") from error
        if begun:
            raise JobError(
                f"{self.root} holds parts of a job and no {FILE}: choose an empty folder"
            )
        if foreign := [name for name in names if not name.startswith((".", "_"))]:
            raise JobError(
                f"{self.root} holds other files ({foreign[0]}) and no {FILE}: choose an empty folder"
            )


def ids_of(table: Any) -> list[Any]:
    """Returns the input's id of each row of a part's table."""
    found: list[Any] = table[_id_column(table.column_names)].to_pylist()
    return found


def _id_column(names: list[str]) -> str:
    return "document_id" if "document_id" in names else "id"


def reject_table(rows: list[tuple[str, str, int, str, str | None]]) -> Any:
    """Returns rejected rows, ``(id, source, position, reason, text)``, as an Arrow table."""
    arrays = [pa.array([row[n] for row in rows], f.type) for n, f in enumerate(_REJECT_SCHEMA)]
    return pa.table(arrays, schema=_REJECT_SCHEMA)


def vector_column(vectors: Any, dtype: str) -> Any:
    """Returns float32 vectors ``(rows, dimensions)`` as a fixed-size list that any reader knows."""
    flat = pa.array(vectors.astype(dtype, copy=False).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def _as_parquet(table: Any) -> Any:
    sink = pa.BufferOutputStream()
    # vectors neither repeat nor compress
    others = [path for path in _leaves(table.schema) if path != _VECTORS]
    codec = {_VECTORS: "none", **dict.fromkeys(others, "snappy")}
    pq.write_table(table, sink, use_dictionary=others, compression=codec)
    return sink.getvalue()


def _leaves(schema: Any) -> list[str]:
    """The columns as Parquet has them: a nested one is several."""
    sink = pa.BufferOutputStream()
    pq.write_metadata(schema, sink)
    found = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [found.column(n).path for n in range(len(found))]

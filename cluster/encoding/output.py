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
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.encoding.failures import JobError
from cluster.encoding.manifest import FILE, Counts, Identity, Manifest

REJECTS = "_rejects"
_TMP = "_tmp"
_KEY = b"embedfleet"
_PROBE_BYTES = 1 << 16
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
        """Returns the manifest, if a run has begun here. Raises JobError when it cannot be read."""
        path = f"{self.root}/{FILE}"
        info = self.fs.get_file_info(path)
        if not info.is_file:
            self._refuse_foreign()
            return None
        with self.fs.open_input_file(path) as handle:
            return Manifest.from_json(handle.read())

    def begun(self) -> set[str]:
        """Returns the `InputFile.digest` of each file of which anything is committed."""
        folders = (self.parts, f"{self.root}/{REJECTS}")
        selectors = [pafs.FileSelector(folder, allow_not_found=True) for folder in folders]
        names = [i.base_name for s in selectors for i in self.fs.get_file_info(s) if i.is_file]
        return {name.split("-")[1] for name in names if name.startswith("part-")}

    def write_manifest(self, manifest: Manifest) -> None:
        """Replaces the manifest as a whole. Raises JobError."""
        with self.writing():
            self._put(f"{self.root}/{FILE}", manifest.as_json())

    def done(self, name: str) -> Counts | None:
        """Returns the counts of a part that is done; None when it is not."""
        path = f"{self.parts}/{name}"
        if not self.fs.get_file_info(path).is_file:
            return None
        with self.fs.open_input_file(path) as handle:
            about = json.loads(pq.read_schema(handle).metadata[_KEY])
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

    def _put(self, path: str, data: Any) -> None:
        draft = f"{self.root}/{_TMP}/{uuid.uuid4().hex}"
        try:
            with self.fs.open_output_stream(draft) as stream:
                stream.write(data)
            self.fs.move(draft, path)
        except OSError:
            self._remove(draft)
            raise

    def _remove(self, path: str) -> None:
        if self.fs.get_file_info(path).is_file:
            self.fs.delete_file(path)

    def _refuse_foreign(self) -> None:
        selector = pafs.FileSelector(self.root, allow_not_found=True)
        try:
            names = [i.base_name for i in self.fs.get_file_info(selector)]
        except OSError as error:
            raise JobError(f"{self.root} cannot be used as OUTPUT: {error}") from error
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
    plain = [name for name in table.column_names if name != "embedding"]
    # vectors neither repeat nor compress
    codec = {name: "none" if name == "embedding" else "snappy" for name in table.column_names}
    codec = {("embedding.list.element" if k == "embedding" else k): v for k, v in codec.items()}
    pq.write_table(table, sink, use_dictionary=plain, compression=codec)
    return sink.getvalue()

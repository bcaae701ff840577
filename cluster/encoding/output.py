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
        self._fs = filesystem
        self.root = root.rstrip("/")
        self.parts = f"{self.root}/{parts}".rstrip("/")

    def prepare(self) -> None:
        """Makes the folders. Raises JobError when nothing can be written there."""
        try:
            for folder in (self.root, self.parts, f"{self.root}/{REJECTS}", f"{self.root}/{_TMP}"):
                self._fs.create_dir(folder, recursive=True)
            self._put(f"{self.root}/{_TMP}/probe", b"probe")
            self._fs.delete_file(f"{self.root}/{_TMP}/probe")
        except OSError as error:
            raise JobError(f"{self.root} cannot be written to: {error}") from error

    def manifest(self) -> Manifest | None:
        """Returns the manifest, if a run has begun here. Raises JobError when it cannot be read."""
        path = f"{self.root}/{FILE}"
        info = self._fs.get_file_info(path)
        if not info.is_file:
            self._refuse_foreign()
            return None
        with self._fs.open_input_file(path) as handle:
            return Manifest.from_json(handle.read())

    def write_manifest(self, manifest: Manifest) -> None:
        """Replaces the manifest as a whole."""
        self._put(f"{self.root}/{FILE}", manifest.as_json())

    def done(self, name: str) -> Counts | None:
        """Returns the counts of a part that is done; None when it is not."""
        path = f"{self.parts}/{name}"
        if not self._fs.get_file_info(path).is_file:
            return None
        with self._fs.open_input_file(path) as handle:
            about = json.loads(pq.read_schema(handle).metadata[_KEY])
        return Counts(**about["counts"])

    def vectors(self, name: str) -> Any:
        """Returns the table of a part that is done."""
        with self._fs.open_input_file(f"{self.parts}/{name}") as handle:
            return pq.ParquetFile(handle).read()

    def ids(self, name: str) -> list[Any]:
        """Returns the ids of the rows that a part was made of, one for each row of its table."""
        with self._fs.open_input_file(f"{self.parts}/{name}") as handle:
            file = pq.ParquetFile(handle)
            return ids_of(file.read([_id_column(file.schema_arrow.names)]))

    def rejects(self, name: str) -> Any:
        """Returns the table of a part's rejects, which is empty when there are none."""
        path = f"{self.root}/{REJECTS}/{name}"
        if not self._fs.get_file_info(path).is_file:
            return reject_table([])
        with self._fs.open_input_file(path) as handle:
            return pq.ParquetFile(handle).read()

    def commit(self, name: str, vectors: Any, rejects: Any, identity: Identity, c: Counts) -> None:
        """Writes a part's vectors and rejects (Arrow tables); raises OSError."""
        if rejects.num_rows:
            self._put(f"{self.root}/{REJECTS}/{name}", _as_parquet(rejects))
        about = json.dumps({**asdict(identity), "counts": asdict(c)})
        described = vectors.replace_schema_metadata({_KEY: about.encode()})
        self._put(f"{self.parts}/{name}", _as_parquet(described))

    def clean(self) -> None:
        """Removes what killed writers have left."""
        self._fs.delete_dir_contents(f"{self.root}/{_TMP}", missing_dir_ok=True)
        self._fs.delete_dir(f"{self.root}/{_TMP}")

    def _put(self, path: str, data: Any) -> None:
        draft = f"{self.root}/{_TMP}/{uuid.uuid4().hex}"
        try:
            with self._fs.open_output_stream(draft) as stream:
                stream.write(data)
            self._fs.move(draft, path)
        except OSError:
            if self._fs.get_file_info(draft).is_file:
                self._fs.delete_file(draft)
            raise

    def _refuse_foreign(self) -> None:
        selector = pafs.FileSelector(self.root, allow_not_found=True)
        try:
            names = [i.base_name for i in self._fs.get_file_info(selector)]
        except OSError as error:
            raise JobError(f"{self.root} cannot be used as OUTPUT: {error}") from error
        if any(not name.startswith((".", "_")) for name in names):
            raise JobError(
                f"{self.root} holds other files ({names[0]}) and no {FILE}: choose an empty folder"
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

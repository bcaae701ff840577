"""The output folder and the job folder beside it: parts that are complete or absent.

    OUTPUT/part-….parquet               id, kept columns, embedding; see `PartRecord` for its metadata
    OUTPUT/vectors.lance                with --format lance, in place of the parts
    OUTPUT.job/rejects/part-….parquet   id, source, position, reason, text
    OUTPUT.job/parts/part-….parquet     with --format lance
    OUTPUT.job/manifest.json            see `manifest.py`
    OUTPUT.job/tmp/                     files that are being written
    OUTPUT.job/locks/                   see `lock.py`

OUTPUT holds files of vectors and nothing else. A folder inside it does not hide rejects or a manifest: of
names with an underscore or a dot in front, polars and duckdb read both, dask and datasets read one.

Every file is written to ``tmp`` and then moved into place, a part's rejects before its vectors. The
file of vectors is the commit: if it is there, the part is done; if not, the part is encoded again. A part
whose rows are all rejected has no file of vectors, because some readers refuse a file without rows; its
rejects are the commit. A part without any row leaves no file.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError, PartDamaged
from cluster.corpus.formats.files import resolve
from cluster.corpus.plan.parts import PART_NAME
from cluster.corpus.rejects import reject_table
from cluster.corpus.settings import JOB_SUFFIX
from cluster.corpus.write.lock import JobLock
from cluster.corpus.write.manifest import Counts, Identity, Manifest, PartRecord
from cluster.corpus.write.parquet import about, as_parquet, id_column, ids_of

LANCE = "vectors.lance"
_MANIFEST = "manifest.json"
_OLD_MANIFEST = "_manifest.json"  # until version 0.1, inside OUTPUT
_PROBE_BYTES = 1 << 16
_PART = re.compile(PART_NAME)
# a file that cannot be read as Parquet
_UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError, ValueError)


def open_output(location: str, sink: str) -> Output:
    """Returns the output at a path or URI. Raises JobError if no folder can stand beside it."""
    filesystem, root = resolve(location)
    if filesystem.type_name == "local":
        root = os.path.realpath(root)  # files are moved within one disk
    if "/" not in root.strip("/") and filesystem.type_name != "local":
        raise JobError(
            f"{location} is a whole bucket: choose a folder in it as OUTPUT, such as {root}/vectors"
        )
    return Output(filesystem, root, sink)


class Output:
    """One output folder and the job folder beside it. Picklable."""

    def __init__(self, filesystem: Any, root: str, sink: str = "parquet") -> None:
        """``root`` is the output folder, ``sink`` the format of what it will hold."""
        self.fs = filesystem
        self.root = root.rstrip("/")
        self.job = self.root + JOB_SUFFIX
        self.rejects_folder = f"{self.job}/rejects"
        self._lance_parts = f"{self.job}/parts"
        self.parts = self._lance_parts if sink == "lance" else self.root
        self._tmp = f"{self.job}/tmp"
        self._manifest = f"{self.job}/{_MANIFEST}"

    def lock(self) -> JobLock:
        """Returns the lock that keeps a second job away."""
        return JobLock(self.fs, self.job, self.root)

    def prepare(self) -> None:
        """Creates the folders. Raises JobError if they cannot be written to."""
        with self.writing():
            for folder in (self.root, self.parts, self.rejects_folder, self._tmp):
                self.fs.create_dir(folder, recursive=True)
            self._check_one_disk()
            self._put(f"{self._tmp}/probe", bytes(_PROBE_BYTES))
            self.fs.delete_file(f"{self._tmp}/probe")

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

    def check(self) -> None:
        """Raises JobError if OUTPUT holds files of something else, or if another job writes to it."""
        self._refuse_foreign_files()
        self.lock().refuse_a_second_job()

    def manifest(self, say: Callable[[str], None]) -> Manifest | None:
        """Returns the manifest; None if no run has started here.

        A manifest that is missing or damaged is made again from the metadata of the parts, and ``say``
        is called with a line about it. Raises JobError if that is not possible.
        """
        if (manifest := self._read_manifest()) is not None or not self.committed_files():
            return manifest
        if (manifest := Manifest.of_parts(self._records())) is None:
            raise JobError(
                f"{self.root} holds parts, but neither a manifest nor metadata that say what they are: "
                "choose another OUTPUT"
            )
        say(f"{self._manifest} was missing or damaged, and is made again from the parts")
        return manifest

    def committed_files(self) -> set[str]:
        """Returns the `InputFile.digest` of each input file with a committed part or rejects."""
        folders = (self.root, self._lance_parts, self.rejects_folder)
        matches = (_PART.fullmatch(name) for folder in folders for name in self._names(folder))
        return {match[1] for match in matches if match}

    def part_names(self) -> set[str]:
        """Returns the names of the parts that have a file of vectors or of rejects."""
        folders = (self.parts, self.rejects_folder)
        return {name for folder in folders for name in self._names(folder) if _PART.fullmatch(name)}

    def write_manifest(self, manifest: Manifest) -> None:
        """Replaces the manifest atomically. Raises JobError."""
        with self.writing():
            self._put(self._manifest, manifest.as_json())

    def committed_counts(self, name: str, identity: Identity) -> Counts | None:
        """Returns the counts of a committed part; None if there is none.

        Raises PartDamaged if files of the part are damaged or missing, so that it has to be encoded
        again, and JobError if its vectors are not those of ``identity`` or not those that were written.
        """
        path = f"{self.parts}/{name}"
        if not self._is_file(path):
            record = self._rejects_record(name)
            if record is None or record.counts.written:
                return None
            self._check_identity(record, identity, f"{self.rejects_folder}/{name}")
            return record.counts
        metadata = self._metadata(path)
        record = PartRecord.from_json(about(metadata))
        if record is None or metadata.num_rows != record.counts.written:
            raise JobError(
                f"{path} was changed by another program: delete it, and its rows are encoded again, or "
                "choose another OUTPUT"
            )
        self._check_identity(record, identity, path)
        if record.counts.rejected > self._rejected_rows(name):
            raise PartDamaged(f"rejected rows of {record.source.name} are missing from {self.job}")
        return record.counts

    def vectors(self, name: str) -> Any:
        """Returns the table of a committed part."""
        with self.fs.open_input_file(f"{self.parts}/{name}") as handle:
            return pq.ParquetFile(handle).read()

    def ids(self, name: str) -> list[Any]:
        """Returns the input's id of each row of a committed part. Raises PartDamaged."""
        path = f"{self.parts}/{name}"
        if not self._is_file(path):
            return []  # its rows were all rejected
        try:
            with self.fs.open_input_file(path) as handle:
                file = pq.ParquetFile(handle)
                return ids_of(file.read([id_column(file.schema_arrow.names)]))
        except _UNREADABLE as error:
            raise PartDamaged(f"{path} cannot be read ({error})") from error

    def rejects(self, name: str) -> Any:
        """Returns the table of a part's rejects, which may be empty."""
        path = f"{self.rejects_folder}/{name}"
        if not self._is_file(path):
            return reject_table([])
        with self.fs.open_input_file(path) as handle:
            return pq.ParquetFile(handle).read()

    def commit(self, name: str, vectors: Any, rejects: Any, record: PartRecord) -> None:
        """Writes a part's rejects and then its vectors (Arrow tables). Raises JobError."""
        metadata = record.as_json()
        with self.writing():
            if rejects.num_rows:
                self._put(f"{self.rejects_folder}/{name}", as_parquet(rejects, metadata))
            else:  # an attempt that was killed may have left some
                self._remove(f"{self.rejects_folder}/{name}")
            if vectors.num_rows:
                self._put(f"{self.parts}/{name}", as_parquet(vectors, metadata))
            else:
                self._remove(f"{self.parts}/{name}")

    def clean(self) -> None:
        """Removes the unfinished files of writers that were killed. Raises JobError."""
        with self.writing():
            self.fs.delete_dir_contents(self._tmp, missing_dir_ok=True)
            self.fs.delete_dir(self._tmp)

    def _read_manifest(self) -> Manifest | None:
        if not self._is_file(self._manifest):
            return None
        with self.fs.open_input_file(self._manifest) as handle:
            return Manifest.from_json(handle.read())

    def _records(self) -> Iterable[PartRecord]:
        """What the metadata of all parts say."""
        for folder in (self.root, self._lance_parts, self.rejects_folder):
            for name in filter(_PART.fullmatch, self._names(folder)):
                with suppress(PartDamaged):
                    record = PartRecord.from_json(about(self._metadata(f"{folder}/{name}")))
                    if record is not None:
                        yield record

    def _check_identity(self, record: PartRecord, identity: Identity, path: str) -> None:
        if differing := identity.differing(record.identity):
            raise JobError(
                f"{path} holds vectors with another {' and '.join(differing)}: choose another OUTPUT"
            )

    def _rejects_record(self, name: str) -> PartRecord | None:
        """What the rejects of a part say about it; None if there are none, or they are damaged."""
        path = f"{self.rejects_folder}/{name}"
        if not self._is_file(path):
            return None
        with suppress(PartDamaged):
            metadata = self._metadata(path)
            record = PartRecord.from_json(about(metadata))
            if record is not None and metadata.num_rows >= record.counts.rejected:
                return record
        return None

    def _rejected_rows(self, name: str) -> int:
        path = f"{self.rejects_folder}/{name}"
        return int(self._metadata(path).num_rows) if self._is_file(path) else 0

    def _metadata(self, path: str) -> Any:
        """The Parquet metadata of a file. Raises PartDamaged."""
        try:
            with self.fs.open_input_file(path) as handle:
                return pq.read_metadata(handle)
        except _UNREADABLE as error:  # a power failure may leave an empty file
            raise PartDamaged(f"{path} cannot be read ({error})") from error

    def _put(self, path: str, data: Any) -> None:
        draft = f"{self._tmp}/{uuid.uuid4().hex}"
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
        if self._is_file(path):
            self.fs.delete_file(path)

    def _is_file(self, path: str) -> bool:
        return bool(self.fs.get_file_info(path).is_file)

    def _names(self, folder: str) -> list[str]:
        selector = pafs.FileSelector(folder, allow_not_found=True)
        return [info.base_name for info in self.fs.get_file_info(selector)]

    def _check_one_disk(self) -> None:
        if self.fs.type_name != "local":
            return
        if os.stat(self.root).st_dev != os.stat(self.job).st_dev:
            raise JobError(
                f"{self.root} is the top folder of a disk, and the job needs a folder beside it: choose "
                f"a folder in it as OUTPUT, such as {self.root}/vectors"
            )

    def _refuse_foreign_files(self) -> None:
        try:
            names = self._names(self.root)
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"{self.root} cannot be used as OUTPUT: {error}") from error
        if _OLD_MANIFEST in names:
            raise JobError(
                f"{self.root} was written by an earlier version, which kept {_OLD_MANIFEST} and rejects "
                "inside it: choose another OUTPUT"
            )
        ours = (name for name in names if _PART.fullmatch(name) or name == LANCE)
        hidden = (name for name in names if name.startswith((".", "_")))
        if foreign := sorted({*names} - {*ours} - {*hidden}):
            raise JobError(
                f"{self.root} holds {foreign[0]}, which no corpus job has written: move it away, or "
                "choose another OUTPUT"
            )

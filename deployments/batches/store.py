"""The store of files and batches: a folder, or any other pyarrow file system (S3, GCS).

    files/OWNER/FILE.json      what is known of a file; without it, the file does not exist
    data/FILE                  its content
    batches/OWNER/BATCH.json   a batch; after its creation only the runner writes it
    queue/BATCH                its owner, for the runner; there until the batch is final
    cancel/BATCH               when somebody asked for its cancellation
    work/BATCH/plan.json       where the parts of the input begin
    work/BATCH/NUMBER          the results of one part
    tmp/                       what is being written

Files are written to ``tmp`` and then moved into place. Ids are ours, and an owner sees
nothing of other owners, since each path begins with who owns it. Every method blocks.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import fs as pafs

from deployments.batches.states import (
    BATCH_PREFIX,
    FILE_PREFIX,
    Batch,
    FileInfo,
    made_at,
    new_id,
)
from deployments.core.errors import Overloaded, StoreFailed, UnknownObject

_ID = re.compile(rf"(?:{BATCH_PREFIX}|{FILE_PREFIX})[0-9a-f]{{33}}")
_FULL_RETRY_S = 60.0
_READS, _READ_AGAIN_S = 5, 0.1
_ABANDONED_S = 24 * 3600.0  # nobody writes one file for so long


def open_store(location: str) -> Store:
    """Returns the store at a path or a URI, and creates its folder. Raises StoreFailed."""
    with _failing():
        if "://" in location:
            filesystem, root = pafs.FileSystem.from_uri(location)
            filesystem.create_dir(root, recursive=True)
        else:
            filesystem, root = pafs.LocalFileSystem(), str(Path(location).expanduser().absolute())
            Path(root).mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds texts
    return Store(filesystem, root)


class Store:
    """Files and batches of all owners. An owner is a name that can be part of a path."""

    def __init__(self, filesystem: Any, root: str) -> None:
        """``root`` is the folder of the store on a pyarrow file system."""
        self._fs = filesystem
        self._root = root.rstrip("/")

    def __str__(self) -> str:
        return f"{self._fs.type_name} {self._root}"

    # files

    def upload(self, now: float, file_id: str | None = None) -> Upload:
        """Returns a file that is empty, and does not exist until it is kept."""
        return Upload(self, file_id or new_id(FILE_PREFIX, now))

    def file(self, owner: str, file_id: str) -> FileInfo:
        """Returns what is known of a file. Raises UnknownObject."""
        content = self._get(f"files/{owner}/{_checked(file_id)}.json")
        if content is None:
            raise UnknownObject(f"no file {file_id!r} here; GET /v1/files lists yours", "file_id")
        return FileInfo(**content)

    def files(self, owner: str) -> list[str]:
        """Returns the ids of an owner's files, the oldest first."""
        return self._ids(f"files/{owner}")

    def open(self, file_id: str) -> Any:
        """Returns the content of a file that exists, as a pyarrow file. Raises UnknownObject."""
        with _failing():
            try:
                return self._fs.open_input_file(f"{self._root}/data/{_checked(file_id)}")
            except FileNotFoundError:
                raise UnknownObject(f"the file {file_id!r} was deleted", "file_id") from None

    def delete_file(self, owner: str, file_id: str) -> None:
        """Deletes a file. Raises UnknownObject."""
        self.file(owner, file_id)
        self._delete(f"files/{owner}/{file_id}.json", f"data/{file_id}")

    # batches

    def create_batch(self, owner: str, batch: Batch, most: int) -> None:
        """Queues a batch. Raises Overloaded if ``most`` are queued or running already."""
        if (queued := len(self.queue())) >= most:
            raise Overloaded(
                f"{queued} batches wait or run already; retry later, or raise `batches.max_batches` in "
                "the config",
                retry_after_s=_FULL_RETRY_S,
            )
        self._put(f"queue/{batch.id}", owner)
        self.save_batch(owner, batch)

    def save_batch(self, owner: str, batch: Batch) -> None:
        """Replaces a batch."""
        self._put(f"batches/{owner}/{batch.id}.json", batch.as_dict())

    def batch(self, owner: str, batch_id: str) -> Batch:
        """Returns a batch. Raises UnknownObject."""
        content = self._get(f"batches/{owner}/{_checked(batch_id)}.json")
        if content is None:
            raise UnknownObject(
                f"no batch {batch_id!r} here; GET /v1/batches lists yours", "batch_id"
            )
        return Batch.from_dict(content)

    def batches(self, owner: str) -> list[str]:
        """Returns the ids of an owner's batches, the oldest first."""
        return self._ids(f"batches/{owner}")

    def ask_to_cancel(self, batch_id: str, now: float) -> None:
        """Lets the runner know that a batch is to be cancelled."""
        if self.cancelled_at(batch_id) is None:
            self._put(f"cancel/{batch_id}", int(now))

    def cancelled_at(self, batch_id: str) -> int | None:
        """Returns when somebody asked for the cancellation of a batch that is not final yet."""
        at: int | None = self._get(f"cancel/{batch_id}")
        return at

    # for the runner

    def queue(self) -> list[str]:
        """Returns the batches that are not final, the oldest first."""
        return self._ids("queue")

    def owner_of(self, batch_id: str) -> str | None:
        """Returns the owner of a queued batch; None if it has left the queue."""
        owner: str | None = self._get(f"queue/{batch_id}")
        return owner

    def dequeue(self, batch_id: str) -> None:
        """Forgets the work on a batch that is final."""
        with _failing():
            self._fs.delete_dir_contents(f"{self._root}/work/{batch_id}", missing_dir_ok=True)
            with suppress(FileNotFoundError):
                self._fs.delete_dir(f"{self._root}/work/{batch_id}")
        self._delete(f"cancel/{batch_id}", f"queue/{batch_id}")

    def plan(self, batch_id: str) -> Any:
        """Returns what `save_plan` has saved; None if it has not."""
        return self._get(f"work/{batch_id}/plan.json")

    def save_plan(self, batch_id: str, plan: Any) -> None:
        """Saves how a batch is divided."""
        self._put(f"work/{batch_id}/plan.json", plan)

    def parts(self, batch_id: str) -> list[int]:
        """Returns the numbers of the parts that are done."""
        return sorted(int(name) for name in self._names(f"work/{batch_id}") if name.isdecimal())

    def save_part(self, batch_id: str, number: int, results: Iterable[bytes]) -> None:
        """Saves the results of a part, which is then done."""
        with self._replacing(f"work/{batch_id}/{number:06d}") as stream:
            for result in results:
                stream.write(result)

    def open_part(self, batch_id: str, number: int) -> Any:
        """Returns the results of a part that is done, as a pyarrow stream."""
        with _failing():
            return self._fs.open_input_stream(f"{self._root}/work/{batch_id}/{number:06d}")

    def cancellations(self) -> set[str]:
        """Returns the batches that somebody wants to be cancelled."""
        return set(self._ids("cancel"))

    def note(self, name: str) -> Any:
        """Returns a note about the whole store; None if there is none."""
        return self._get(name)

    def write_note(self, name: str, content: Any) -> None:
        """Replaces a note about the whole store."""
        self._put(name, content)

    def sweep(self, now: float, in_use: set[str], batches_s: float) -> None:
        """Deletes files that have expired, but not those ``in_use``, batches that are older than
        ``batches_s`` and have ended, and what nobody goes on writing.
        """
        queued, kept = set(self.queue()), set()
        in_use = in_use | self._inputs_of(queued)
        for owner in self._names("batches"):
            for batch_id in self.batches(owner):
                if batch_id not in queued and made_at(batch_id, BATCH_PREFIX) + batches_s < now:
                    self._delete(f"batches/{owner}/{batch_id}.json")
        for owner in self._names("files"):
            for file_id in self.files(owner):
                content = self._get(f"files/{owner}/{file_id}.json")
                if content and (FileInfo(**content).expires_at > now or file_id in in_use):
                    kept.add(file_id)
                elif content:
                    self._delete(f"files/{owner}/{file_id}.json", f"data/{file_id}")
        for folder in ("data", "tmp"):
            for info in self._infos(folder):
                age_s = time.time() - info.mtime.timestamp()
                if info.base_name not in kept and age_s > _ABANDONED_S:
                    self._delete(f"{folder}/{info.base_name}")

    # how it is stored

    def _inputs_of(self, batch_ids: Iterable[str]) -> set[str]:
        """Returns the input files of batches that have not ended."""
        inputs = set()
        for batch_id in batch_ids:
            owner = self.owner_of(batch_id)
            with suppress(UnknownObject):  # it has just left the queue
                if owner:
                    inputs.add(self.batch(owner, batch_id).input_file_id)
        return inputs

    def _ids(self, folder: str) -> list[str]:
        names = (name.removesuffix(".json") for name in self._names(folder))
        return sorted(name for name in names if _ID.fullmatch(name))

    def _names(self, folder: str) -> list[str]:
        return [info.base_name for info in self._infos(folder)]

    def _infos(self, folder: str) -> list[Any]:
        with _failing():
            selector = pafs.FileSelector(f"{self._root}/{folder}", allow_not_found=True)
            infos: list[Any] = self._fs.get_file_info(selector)
            return infos

    def _get(self, path: str) -> Any:
        for _ in range(_READS):
            with _failing():
                try:
                    with self._fs.open_input_stream(f"{self._root}/{path}") as stream:
                        content = stream.read()
                except FileNotFoundError:
                    return None
            with suppress(orjson.JSONDecodeError):
                return orjson.loads(content)
            # of an object that is replaced by a longer one, pyarrow reads as much as the old one had
            time.sleep(_READ_AGAIN_S)
        raise StoreFailed(f"{self._root}/{path} is damaged")

    def _put(self, path: str, content: Any) -> None:
        with self._replacing(path) as stream:
            stream.write(orjson.dumps(content))

    @contextmanager
    def _replacing(self, path: str) -> Iterator[Any]:
        """Yields a stream whose content replaces a file at the end of the block, unless that fails."""
        target, temporary = f"{self._root}/{path}", f"{self._root}/tmp/{uuid.uuid4().hex}"
        with _failing():
            self._fs.create_dir(f"{self._root}/tmp")
            self._fs.create_dir(target.rpartition("/")[0], recursive=True)
            try:
                with self._fs.open_output_stream(temporary) as stream:
                    yield stream
                self._fs.move(temporary, target)
            except BaseException:
                with suppress(OSError):
                    self._fs.delete_file(temporary)
                raise

    def _delete(self, *paths: str) -> None:
        with _failing():
            for path in paths:
                with suppress(FileNotFoundError):
                    self._fs.delete_file(f"{self._root}/{path}")


class Upload:
    """A file that is being written. Not thread-safe."""

    def __init__(self, store: Store, file_id: str) -> None:
        """Raises StoreFailed."""
        self.id = file_id
        self.bytes = 0
        self._store = store
        self._path = self._target = f"{store._root}/data/{file_id}"
        if store._fs.type_name == "local":  # others show a file once its stream is closed
            self._path = f"{store._root}/tmp/{uuid.uuid4().hex}"
        with _failing():
            for folder in ("data", "tmp"):
                store._fs.create_dir(f"{store._root}/{folder}")
            self._stream = store._fs.open_output_stream(self._path)

    def write(self, content: bytes) -> None:
        """Raises StoreFailed."""
        with _failing():
            self._stream.write(content)
        self.bytes += len(content)

    def keep(self, owner: str, filename: str, purpose: str, now: float, ttl_s: int) -> FileInfo:
        """Makes it a file of this owner. Raises StoreFailed."""
        with _failing():
            self._stream.close()
            if self._path != self._target:
                self._store._fs.move(self._path, self._target)
        info = FileInfo(
            self.id, self.bytes, int(now), filename, purpose, expires_at=int(now) + ttl_s
        )
        self._store._put(f"files/{owner}/{self.id}.json", asdict(info))
        return info

    def drop(self) -> None:
        """Removes it again."""
        with suppress(OSError):
            self._stream.close()
        with suppress(OSError):
            self._store._fs.delete_file(self._path)


def _checked(object_id: str) -> str:
    """Returns an id that may be part of a path. Raises UnknownObject for anything else."""
    if not _ID.fullmatch(object_id):
        raise UnknownObject(f"{object_id[:100]!r} is not an id of a file or a batch", "id")
    return object_id


@contextmanager
def _failing() -> Iterator[None]:
    """Turns an error of the file system into StoreFailed."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StoreFailed(
            f"the store of batches cannot be used: {' '.join(str(error).split())}; see "
            "`batches.store` in the config, and whether its disk is full"
        ) from error

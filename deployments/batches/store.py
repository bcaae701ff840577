"""The store of files and batches: a folder, or any other pyarrow file system (S3, GCS).

    files/OWNER/FILE.json      what is known of a file; without it, the file does not exist
    data/FILE.RANDOM           the content of a file, under a name that no other attempt writes to
    batches/OWNER/BATCH.json   a batch; after its creation only the runner writes it
    queue/OWNER/BATCH          there until the batch is final
    cancel/BATCH               when somebody asked for its cancellation
    work/BATCH/plan.json       where the parts of the input begin
    work/BATCH/NUMBER          the results of one part
    damaged/BATCH.json         the record of a batch that could not be read
    tmp/                       what is being written

All but contents are written to ``tmp`` and then moved into place. Ids are ours, and an owner sees
nothing of other owners, since each path begins with who owns it. Every method blocks.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pyarrow as pa
from pyarrow import fs as pafs

from deployments.batches.sharing import has_room
from deployments.batches.states import (
    BATCH_PREFIX,
    FILE_PREFIX,
    Batch,
    FileInfo,
    made_at,
)
from deployments.core.errors import Overloaded, StoreDamaged, StoreFailed, UnknownObject

log = logging.getLogger("ray.serve")
T = TypeVar("T")
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

    def upload(self, file_id: str) -> Upload:
        """Returns a file that is empty, and does not exist until it is kept."""
        return Upload(self, file_id)

    def file(self, owner: str, file_id: str) -> FileInfo:
        """Returns what is known of a file. Raises UnknownObject."""
        info = self._get(f"files/{owner}/{_checked(file_id)}.json")
        if info is None:
            raise UnknownObject(f"no file {file_id!r} here; GET /v1/files lists yours", "file_id")
        with _decoding(file_id):
            return FileInfo(**info)

    def files(self, owner: str) -> list[str]:
        """Returns the ids of an owner's files, the oldest first."""
        return self._ids(f"files/{owner}")

    def open(self, info: FileInfo) -> Any:
        """Returns the content of a file, as a pyarrow file. Raises UnknownObject."""
        with _failing():
            try:
                return self._fs.open_input_file(f"{self._root}/data/{info.content}")
            except FileNotFoundError:
                raise UnknownObject(f"the file {info.id!r} was deleted", "file_id") from None

    def delete_file(self, owner: str, file_id: str) -> None:
        """Deletes a file. Raises UnknownObject."""
        content = self.file(owner, file_id).content
        self._delete(f"files/{owner}/{file_id}.json", f"data/{content}")

    # batches

    def create_batch(
        self, batch: Batch, most: int, check: Callable[[], None] = lambda: None
    ) -> None:
        """Queues a batch. Raises Overloaded if `has_room` finds none among ``most`` places.

        Leaves nothing of the batch if ``check`` raises, which it may as soon as nobody waits any more.
        """
        queue = self.queue()
        if not has_room(Counter(queue.values()), batch.owner, most):
            raise Overloaded(
                f"the queue holds {len(queue)} of {most} batches, and one API key or tenant may not hold "
                "more places than are still free; retry later, or raise `batches.max_batches` in the "
                "config",
                retry_after_s=_FULL_RETRY_S,
            )
        try:
            self.save_batch(batch)
            check()
            self._put(_queued(batch.owner, batch.id), None)
            check()
        except BaseException:  # its sender, who hears that this has failed, will send another one
            self._delete(_queued(batch.owner, batch.id), _record(batch.owner, batch.id))
            raise

    def save_batch(self, batch: Batch) -> None:
        """Replaces a batch."""
        self._put(_record(batch.owner, batch.id), batch.as_dict())

    def batch(self, owner: str, batch_id: str) -> Batch:
        """Returns a batch. Raises UnknownObject."""
        batch = self._get(_record(owner, _checked(batch_id)))
        if batch is None:
            raise UnknownObject(
                f"no batch {batch_id!r} here; GET /v1/batches lists yours", "batch_id"
            )
        with _decoding(batch_id):
            return Batch.from_dict(batch)

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

    def queue(self) -> dict[str, str]:
        """Returns the owner of each batch that is not final, the oldest batch first."""
        infos = self._infos("queue", recursive=True)
        paths = (info.path.removeprefix(f"{self._root}/queue/").split("/") for info in infos)
        owners = {path[1]: path[0] for path in paths if len(path) == 2 and _ID.fullmatch(path[1])}
        return dict(sorted(owners.items()))

    def dequeue(self, owner: str, batch_id: str) -> None:
        """Forgets the work on a batch that is final."""
        self._forget_work(batch_id)
        self._delete(f"cancel/{batch_id}", _queued(owner, batch_id))

    def set_aside(self, owner: str, batch_id: str) -> None:
        """Forgets a batch whose record is damaged, and keeps the record in ``damaged``."""
        with _failing():
            self._fs.create_dir(f"{self._root}/damaged")
            record = f"{self._root}/{_record(owner, batch_id)}"
            self._fs.move(record, f"{self._root}/damaged/{batch_id}.json")
        self.dequeue(owner, batch_id)

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

    # what time leaves behind

    def sweep(self, now: float, batches_s: float) -> None:
        """Deletes files that have expired and that no queued batch reads, batches that are older than
        ``batches_s`` and have ended, and what nobody goes on writing. Requeues unfinished batches that
        are missing from the queue, for example because a router died while creating them.

        A damaged record is left alone and logged. That of a file keeps its content; while that of a batch
        in the queue is there, its input may be any file, and all are kept.
        """
        at_work, cancelled = self._names("work"), self.cancellations()
        queue = self.queue()
        self._sweep_files(now, self._sweep_batches(queue, now - batches_s))
        for batch_id in set(at_work) - queue.keys():
            self._forget_work(batch_id)
        for batch_id in cancelled - self.queue().keys():
            self._delete(f"cancel/{batch_id}")
        self._sweep_abandoned("tmp", set())

    def _sweep_batches(self, queue: dict[str, str], oldest: float) -> set[str] | None:
        """Returns the inputs of the batches that have not ended; None if one of these cannot be read."""
        inputs, all_read = set(), True
        for owner in self._names("batches"):
            for batch_id in self.batches(owner):
                if batch_id not in queue and made_at(batch_id, BATCH_PREFIX) < oldest:
                    self._delete(_record(owner, batch_id))
                elif (batch := _readable(self.batch, owner, batch_id)) is None:
                    all_read = all_read and batch_id not in queue
                elif not batch.is_final:
                    inputs.add(batch.input_file_id)
                    if batch_id not in queue:
                        self._put(_queued(owner, batch_id), None)
        return inputs if all_read else None

    def _sweep_files(self, now: float, inputs: set[str] | None) -> None:
        contents, unreadable = set[str](), set[str]()
        for owner in self._names("files"):
            for file_id in self.files(owner):
                if (info := _readable(self.file, owner, file_id)) is None:
                    unreadable.add(file_id)
                elif inputs is None or file_id in inputs or info.expires_at > now:
                    contents.add(info.content)
                else:
                    self._delete(f"files/{owner}/{file_id}.json", f"data/{info.content}")
        if unreadable:
            contents |= {c for c in self._names("data") if c.partition(".")[0] in unreadable}
        self._sweep_abandoned("data", contents)

    def _sweep_abandoned(self, folder: str, kept: set[str]) -> None:
        for info in self._infos(folder):
            age_s = time.time() - info.mtime.timestamp()
            if info.base_name not in kept and age_s > _ABANDONED_S:
                self._delete(f"{folder}/{info.base_name}")

    # how it is stored

    def _ids(self, folder: str) -> list[str]:
        names = (name.removesuffix(".json") for name in self._names(folder))
        return sorted(name for name in names if _ID.fullmatch(name))

    def _names(self, folder: str) -> list[str]:
        return [info.base_name for info in self._infos(folder)]

    def _infos(self, folder: str, *, recursive: bool = False) -> list[Any]:
        with _failing():
            selector = pafs.FileSelector(f"{self._root}/{folder}", True, recursive)
            try:
                infos: list[Any] = self._fs.get_file_info(selector)
            except FileNotFoundError:  # pyarrow, as the folder was just being made or deleted
                infos = self._fs.get_file_info(selector)
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
        raise StoreDamaged(f"{self._root}/{path} is damaged")

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

    def _forget_work(self, batch_id: str) -> None:
        with _failing():
            self._fs.delete_dir_contents(f"{self._root}/work/{batch_id}", missing_dir_ok=True)
            with suppress(FileNotFoundError):
                self._fs.delete_dir(f"{self._root}/work/{batch_id}")

    def _delete(self, *paths: str) -> None:
        with _failing():
            for path in paths:
                with suppress(FileNotFoundError):
                    self._fs.delete_file(f"{self._root}/{path}")


class Upload:
    """A file that is being written, whose content no other attempt writes or removes.

    One call waits for another: a caller that has given up on one may drop the file at any time.
    """

    def __init__(self, store: Store, file_id: str) -> None:
        """Raises StoreFailed."""
        self.bytes = 0
        self._store = store
        self._id = file_id
        self._content = f"{file_id}.{uuid.uuid4().hex}"
        self._path = f"{store._root}/data/{self._content}"
        self._lock = threading.Lock()
        self._is_kept = False
        with _failing():
            store._fs.create_dir(f"{store._root}/data")
            self._stream = store._fs.open_output_stream(self._path)

    def write(self, content: bytes) -> None:
        """Raises StoreFailed."""
        with self._lock, _failing():
            self._stream.write(content)
            self.bytes += len(content)

    def keep(self, owner: str, filename: str, purpose: str, now: float, ttl_s: int) -> FileInfo:
        """Makes it a file of this owner, instead of one that has its id. Raises StoreFailed."""
        expires_at = int(now) + ttl_s
        with self._lock:
            with _failing():
                self._stream.close()
            info = FileInfo(
                self._id, self.bytes, int(now), filename, purpose, expires_at, self._content
            )
            self._store._put(f"files/{owner}/{self._id}.json", asdict(info))
            self._is_kept = True
        return info

    def drop(self) -> None:
        """Removes it again, unless it is kept."""
        with self._lock:
            if self._is_kept:
                return
            with suppress(OSError):
                self._stream.close()
            with suppress(OSError):
                self._store._fs.delete_file(self._path)


def _queued(owner: str, batch_id: str) -> str:
    return f"queue/{owner}/{batch_id}"


def _record(owner: str, batch_id: str) -> str:
    return f"batches/{owner}/{batch_id}.json"


@contextmanager
def _decoding(object_id: str) -> Iterator[None]:
    """Turns an error in the content of a record into StoreDamaged."""
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise StoreDamaged(f"the record of {object_id} is damaged: {error!r}") from error


def _readable(read: Callable[[str, str], T], owner: str, object_id: str) -> T | None:
    """Returns an object; None if its record is damaged."""
    try:
        return read(owner, object_id)
    except (UnknownObject, StoreFailed) as error:
        log.warning("the record of %s cannot be read: %r", object_id, error)
        return None


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

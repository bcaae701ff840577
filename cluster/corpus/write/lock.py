"""Keeps a second job away from an output, on every file system that pyarrow writes to.

A job writes a file of its own to ``OUTPUT.job/locks``, then looks for files of others. Of two jobs, the
one that looks last sees the other's file, so both never go on. A running job rewrites its file every few
seconds. A file that has not been rewritten for a while is of a job that was killed; on the same machine,
the process itself is looked up instead, so that a job can be run again at once.

Ages are differences between times of the store, so the clocks of machines do not matter.
"""

from __future__ import annotations

import getpass
import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs as pafs

from cluster.corpus.errors import JobError

_BEAT_S = 5.0
_STALE_S = 30.0
_POLL_S = 1.0
_ATTEMPTS = 3  # of two jobs that start together, both may see each other and step back
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock. ``machine`` and ``born`` tell it from others with its number."""

    machine: str
    pid: int
    born: str
    host: str
    user: str
    started: str

    @classmethod
    def this_process(cls) -> Holder:
        """Describes the calling process."""
        pid, now = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %Z")
        return cls(_machine(), pid, _born(pid) or "", socket.gethostname(), _user(), now)

    @property
    def is_alive(self) -> bool | None:
        """Whether the process runs; None if it is on another machine."""
        return _born(self.pid) == self.born if self.machine == _machine() else None

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host}, started {self.started}"


class JobLock:
    """The lock of one output folder."""

    def __init__(self, filesystem: Any, job_folder: str, output: str) -> None:
        self._fs = filesystem
        self._folder = f"{job_folder}/locks"
        self._own = f"{self._folder}/{uuid.uuid4().hex}.json"
        self._output = output
        self._is_lost = False
        self._done = threading.Event()

    def refuse_a_second_job(self) -> None:
        """Raises JobError if a process of this machine holds the lock. Changes nothing."""
        for info in self._others():
            if (holder := self._holder(info)) and holder.is_alive:
                raise self._refusal(holder)

    @contextmanager
    def held(self, say: Callable[[str], None]) -> Iterator[None]:
        """Holds the lock. Raises JobError if another job holds it; waits if that one may be dead."""
        self._acquire(say)
        beating = threading.Thread(target=self._beat, daemon=True)
        beating.start()
        try:
            yield
        finally:
            self._done.set()
            beating.join()
            self._remove(self._own)

    def check(self) -> None:
        """Raises JobError if another job has taken the lock, because this one stood still for long."""
        if self._is_lost:
            raise JobError(
                f"another job has taken over {self._output}, because this one showed no sign of life for "
                f"{_STALE_S:.0f} s: was it suspended?"
            )

    def _acquire(self, say: Callable[[str], None]) -> None:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(random.random() * _PAUSE_S)
            try:
                self._fs.create_dir(self._folder, recursive=True)
                self._write()
                self._wait_for_others(say)
                return
            except BaseException as error:
                self._remove(self._own)
                if isinstance(error, OSError):
                    raise JobError(f"{self._output} cannot be written to: {error}") from error
                if not isinstance(error, JobError) or attempt == _ATTEMPTS - 1:
                    raise

    def _wait_for_others(self, say: Callable[[str], None]) -> None:
        """Returns once no other lock is left. Raises JobError if the holder of one is alive."""
        beats: dict[str, int] = {}
        said = False
        while not all(self._is_dead(info, beats) for info in self._others()):
            if not said:
                say(
                    f"{self._output} is locked, perhaps by a job that was killed: waiting to see if it "
                    "is alive"
                )
            said = True
            time.sleep(_POLL_S)
            self._write()  # its time is the store's time

    def _is_dead(self, info: Any, beats: dict[str, int]) -> bool:
        """Removes the lock of a dead job. Returns False while that is not known, and raises JobError if
        the job is alive; ``beats`` holds when each lock was written when it was first seen.
        """
        holder = self._holder(info)
        alive = holder.is_alive if holder else None
        if alive or (alive is None and info.mtime_ns != beats.setdefault(info.path, info.mtime_ns)):
            raise self._refusal(holder)
        now_ns = self._fs.get_file_info(self._own).mtime_ns or 0
        dead = alive is False or now_ns - info.mtime_ns > _STALE_S * 1e9
        if dead:
            self._remove(info.path)
        return dead

    def _others(self) -> list[Any]:
        selector = pafs.FileSelector(self._folder, allow_not_found=True)
        infos = self._fs.get_file_info(selector)
        return [i for i in infos if i.is_file and i.base_name != self._own.rpartition("/")[2]]

    def _holder(self, info: Any) -> Holder | None:
        """Returns who holds a lock; None if its file is just being written, or has gone."""
        with suppress(OSError, ValueError, TypeError), self._fs.open_input_file(info.path) as file:
            return Holder(**json.loads(file.read()))
        return None

    def _refusal(self, holder: Holder | None) -> JobError:
        return JobError(
            f"another job is writing to {self._output}: {holder or 'its lock is kept fresh'}. Wait for "
            "it, or stop it, or choose another OUTPUT"
        )

    def _beat(self) -> None:
        while not self._done.wait(_BEAT_S):
            with suppress(OSError):  # a full disk, or a store that does not answer for a while
                if not self._fs.get_file_info(self._own).is_file:
                    self._is_lost = True
                    return
                self._write()

    def _write(self) -> None:
        with self._fs.open_output_stream(self._own) as stream:
            stream.write(json.dumps(asdict(Holder.this_process())).encode())

    def _remove(self, path: str) -> None:
        with suppress(OSError):
            self._fs.delete_file(path)


def _machine() -> str:
    """This machine since its start, and the numbering of processes that containers may have."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _born(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _born_without_proc(pid)
    return None if fields[0] in "ZX" else fields[19]


def _born_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return None if Path("/proc/self/stat").exists() else ""


def _user() -> str:
    with suppress(KeyError, OSError):
        return getpass.getuser()
    return str(os.getuid())

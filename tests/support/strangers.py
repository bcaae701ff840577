"""What others see of a service: where its processes listen, and what another user of the machine gets."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple, TypeVar

from testing.processes import descendants

T = TypeVar("T")
NOBODY = 65_534
_LISTENS = "0A"


class Listener(NamedTuple):
    """A TCP port at which a process listens."""

    address: str
    port: int
    pid: int
    command: str


def listeners(root: int) -> list[Listener]:
    """Returns each TCP port at which ``root`` or a process below it listens."""
    by_inode = dict(_listening())
    return sorted(
        Listener(*by_inode[inode], pid, command)
        for pid, command in descendants(root).items()
        for inode in _inodes(pid) & by_inode.keys()
    )


def _listening() -> Iterator[tuple[str, tuple[str, int]]]:
    for table, family in (("tcp", AF_INET), ("tcp6", AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS:
                address, port = fields[1].split(":")
                yield fields[9], (_written(address, family), int(port, 16))


def _written(address: str, family: int) -> str:
    """Returns an address of ``/proc/net``, which has the bytes of each 32-bit word reversed."""
    words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
    return inet_ntop(family, b"".join(words))


def _inodes(pid: int) -> set[str]:
    inodes = set()
    with suppress(OSError):
        for link in Path("/proc", str(pid), "fd").iterdir():
            with suppress(OSError):
                inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    return inodes


def unix_sockets(root: int) -> list[Path]:
    """Returns the Unix sockets of ``root`` and the processes below it that have a path.

    HAProxy binds a socket under another name and then renames it, which the kernel does not notice.
    """
    inodes = {inode for pid in descendants(root) for inode in _inodes(pid)}
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    paths = {row[7] for row in rows if len(row) > 7 and row[6] in inodes and row[7][0] == "/"}
    return [Path(re.sub(r"\.\d+\.tmp$", "", path)) for path in sorted(paths)]


def as_nobody(action: Callable[[], T]) -> T:
    """Returns what ``action`` returns in a process of the user nobody. Only root can call this.

    The action must import nothing: another user may not be able to read our modules.
    """
    read, write = os.pipe()
    if not (child := os.fork()):
        _answer(action, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "it failed as nobody"
    result: T = pickle.loads(answer)
    return result


def _answer(action: Callable[[], object], write: int) -> None:
    status = 1
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(pickle.dumps(action()))
        status = 0
    finally:
        os._exit(status)

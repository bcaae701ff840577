"""Says why a job ended when its process was killed and could not say so itself.

When a driver loses its Ray, Ray's core ends the process with ``_Exit``, and no Python code runs after
that. So a small child process waits for the end of the job and prints the message. It runs this file as a
script, without the package and without Ray.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_DONE = "done"
_RAYLET_END_S = 0.2  # the job may notice the end of its raylet first


class Watchdog:
    """The child process that reports the end of a job that was killed."""

    def __init__(self) -> None:
        """Starts the process in a group of its own, since Ctrl-C in the terminal is for the job."""
        command = [sys.executable, "-I", "-S", __file__]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, process_group=0)

    def watch_raylet(self, socket_path: str) -> None:
        """Passes on the Unix socket of the raylet that the job is connected to."""
        self._send(socket_path)

    def stop(self) -> None:
        """Ends the child without a message, because the job reports its end itself."""
        self._send(_DONE)
        with suppress(OSError):
            self._child.communicate()

    def _send(self, line: str) -> None:
        assert self._child.stdin is not None
        with suppress(OSError):  # the job must not fail for this
            print(line, file=self._child.stdin, flush=True)


@contextmanager
def watchdog() -> Iterator[Watchdog]:
    """Reports it if the process is killed inside the block."""
    dog = Watchdog()
    try:
        yield dog
    finally:
        dog.stop()


def end_message(received: list[str]) -> str | None:
    """Returns what to print after the end of a job that sent these lines; None for nothing."""
    if received[-1:] == [_DONE]:
        return None
    ray_ended = bool(received) and not _is_alive(received[-1])
    why = "the Ray of the service has ended" if ray_ended else "the job was killed"
    return f"embedfleet: {why}; run the same command again to continue"


def _is_alive(raylet: str) -> bool:
    if not _accepts(raylet):
        return False
    time.sleep(_RAYLET_END_S)
    return _accepts(raylet)


def _accepts(raylet: str) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(raylet)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    if message := end_message(sys.stdin.read().split("\n")[:-1]):
        print(f"\n{message}" if sys.stderr.isatty() else message, file=sys.stderr)

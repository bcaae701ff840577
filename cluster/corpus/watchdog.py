"""What is said of a job whose process is ended from within: Ray's core does so once its Ray has gone.

It calls ``_Exit``, which no code of ours outlives, so another process waits for the end and speaks then.
Run as a script, since it needs neither the package nor Ray.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_DONE = "done"
_RAYLETS_END_S = 0.2  # the job may have noticed it first


class LastWords:
    """Who says why a job has ended where the job itself cannot."""

    def __init__(self) -> None:
        """Starts the process, in a group of its own: the terminal's Ctrl-C is for the job."""
        command = [sys.executable, "-I", "-S", __file__]
        self._speaker = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, process_group=0)

    def joined(self, raylet: str) -> None:
        """Tells the Unix socket of the job's own part of Ray."""
        self._tell(raylet)

    def are_ours(self) -> None:
        """The job ends with its own words."""
        self._tell(_DONE)
        with suppress(OSError):
            self._speaker.communicate()

    def _tell(self, line: str) -> None:
        assert self._speaker.stdin is not None
        with suppress(OSError):  # a job is not to fail for this
            print(line, file=self._speaker.stdin, flush=True)


@contextmanager
def last_words() -> Iterator[LastWords]:
    """Yields who speaks if the process ends in the meantime."""
    speaker = LastWords()
    try:
        yield speaker
    finally:
        speaker.are_ours()


def words(told: list[str]) -> str | None:
    """Returns what to say after the end of a job that has told so much; None if nothing is to be."""
    if told[-1:] == [_DONE]:
        return None
    gone = bool(told) and not _goes_on(told[-1])
    why = "the Ray of the service has gone" if gone else "the job was killed"
    return f"embedfleet: {why}; the same command does what is missing"


def _goes_on(raylet: str) -> bool:
    if not _answers(raylet):
        return False
    time.sleep(_RAYLETS_END_S)
    return _answers(raylet)


def _answers(raylet: str) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.connect(raylet)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    if said := words(sys.stdin.read().split("\n")[:-1]):
        print(f"\n{said}" if sys.stderr.isatty() else said, file=sys.stderr)

"""Ends the process once the Ray that it needs has ended.

Without a raylet, routers and replicas go on for a while and then answer nothing, and calls to Ray wait
for ever.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from signal import Signals

_EVERY_S = 0.5
_CONNECT_S = 5.0


class Watch:
    """A thread that calls ``ended`` twice a second, until it returns why Ray has ended."""

    def __init__(self, ended: Callable[[], str | None], end: Callable[[], None]) -> None:
        """``end`` kills what is left. After it the process exits with status 1, whatever it is doing."""
        self._ended = ended
        self._end = end
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Call it before Ray is stopped on purpose."""
        with self._lock:
            self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(_EVERY_S):
            with self._lock:
                if not self._stopped.is_set() and (reason := self._ended()):
                    print(f"embedfleet: {reason}, so the service ends", file=sys.stderr, flush=True)
                    self._end()
                    os._exit(1)


def process_end(processes: Mapping[str, subprocess.Popen[bytes]]) -> str | None:
    """Returns which of these processes has ended and how; None while all run."""
    for name, process in processes.items():
        if (status := process.poll()) is not None:
            how = f"was killed by {Signals(-status).name}" if status < 0 else f"ended ({status})"
            hint = ", perhaps for want of memory" if status == -9 else ""
            return f"Ray's {name} (pid {process.pid}) {how}{hint}"
    return None


def socket_end(path: Path) -> str | None:
    """Returns that no process listens at this Unix socket; None if one does, or is too busy to say."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_CONNECT_S)
        try:
            connection.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError) as error:
            return f"the raylet of this machine has ended ({error})"
        except OSError:  # such as a full backlog
            return None
    return None

"""``serve run`` that answers what is under way before it stops; `embedfleet serve` runs it.

Ray's own shutdown ends the proxies first, and with them every open connection.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from types import FrameType

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.scripts import cli


def main() -> None:
    """Runs until SIGINT; the arguments are those of ``serve run``."""
    signal.signal(signal.SIGINT, _drain)
    cli(["run", *sys.argv[1:]])


def _drain(number: int, frame: FrameType | None) -> None:
    """Stops the replicas, each once it has nothing under way, while the proxies still stand."""
    del frame
    signal.signal(number, signal.SIG_IGN)
    if ray.is_initialized():
        with suppress(Exception):  # whatever fails, it stops
            _get_global_client().delete_apps(list(serve.status().applications))
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()

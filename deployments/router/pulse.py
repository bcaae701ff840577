"""Whether the Ray cluster around a router still answers.

A router that has lost its cluster can answer for a while, but nothing replaces its replicas any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import ray

log = logging.getLogger("ray.serve")
_EVERY_S = 2.0
# a GCS that is restarted from Redis is back sooner; without one, Ray ends all its processes after 60 s
_PATIENCE_S = 30.0


class Pulse:
    """Asks the cluster every two seconds, in a thread of its own, since the call may never return."""

    def __init__(
        self, is_alive: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``is_alive`` asks the cluster whether this node is part of it."""
        self._is_alive = is_alive
        self._clock = clock
        self._answered_at = clock()
        self._is_lost = False

    def start(self) -> None:
        """Starts to ask."""
        threading.Thread(target=self._run, daemon=True, name="pulse").start()

    def _run(self) -> None:
        while True:
            self.ask()
            time.sleep(_EVERY_S)

    def ask(self) -> None:
        """Asks once, and waits for the answer."""
        try:
            self._is_lost = not self._is_alive()
        except Exception as error:  # whatever keeps the cluster from answering
            log.warning("the Ray cluster does not answer: %s", error)
            return
        self._answered_at = self._clock()

    @property
    def problem(self) -> str | None:
        """Why this router should get no further requests; None if the cluster is well."""
        if self._is_lost:
            return "the Ray cluster takes this node for dead"
        silent_s = self._clock() - self._answered_at
        if silent_s > _PATIENCE_S:
            return f"the Ray cluster has not answered for {silent_s:.0f} s"
        return None


def node_is_alive() -> bool:
    """Returns whether Ray's GCS has this process's node among those that are alive."""
    node = ray.get_runtime_context().get_node_id()
    return any(n["NodeID"] == node and n["Alive"] for n in ray.nodes())

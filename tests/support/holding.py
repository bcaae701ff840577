"""An actor that holds cores. Its process imports this file, which therefore imports little."""

from __future__ import annotations

import ray


class Holder:
    """Holds what it is made with, and sees what is left."""

    def free(self) -> float:
        """Returns the cores that nobody holds."""
        return float(ray.available_resources().get("CPU", 0.0))

"""What the wire allows, from the config."""

from __future__ import annotations

import time
from dataclasses import dataclass

from deployments.core.errors import InvalidRequest


@dataclass(frozen=True, kw_only=True)
class ApiLimits:
    """Limits of a request, and the answer to a text that is too long.

    ``max_offline`` requests of low priority may be under way at once, so that they leave room for others.
    ``request_timeout_s`` is how many seconds a request may take, from its first byte to its answer.
    """

    max_body_bytes: int
    max_texts: int
    max_offline: int
    truncate: bool
    request_timeout_s: float

    def deadline(self) -> float:
        """Returns when a request that comes in now has to be answered, by `time.monotonic`."""
        return time.monotonic() + self.request_timeout_s

    def check_count(self, texts: int, field: str) -> None:
        """Raises InvalidRequest when a request holds too many texts."""
        if texts > self.max_texts:
            raise InvalidRequest(
                f"`{field}` holds {texts} texts, at most {self.max_texts} go in one request; "
                "send several requests",
                field,
            )

"""What the wire allows, from the config."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.embedding.errors import InvalidRequest


@dataclass(frozen=True, kw_only=True)
class ApiLimits:
    """Limits of a request, and the answer to a text that is too long.

    ``body_timeout_s`` is how many seconds a request's body may take to arrive.
    """

    max_body_bytes: int
    max_texts: int
    truncate: bool
    body_timeout_s: float

    def check_count(self, texts: int, field: str) -> None:
        """Raises InvalidRequest when a request holds too many texts."""
        if texts > self.max_texts:
            raise InvalidRequest(
                f"`{field}` holds {texts} texts, at most {self.max_texts} go in one request; "
                "send several requests",
                field,
            )

"""Figures that tests measure for the documentation."""

from __future__ import annotations

from collections.abc import Callable


def report(record_property: Callable[[str, object], None], what: str, seconds: float) -> None:
    """Prints a duration, and puts it into the report of `pytest --junitxml`.

    The table in docs/operations.md has these figures.
    """
    record_property(what, round(seconds, 1))
    print(f"{what}: {seconds:.1f} s")

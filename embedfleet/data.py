"""A stage for Ray Data pipelines (docs/python.md)."""

from __future__ import annotations

from embedfleet.own_packages import check_own_packages

check_own_packages()

from cluster.corpus.connect import connect  # noqa: E402
from cluster.corpus.errors import JobError  # noqa: E402
from cluster.corpus.stage import embed  # noqa: E402

__all__ = ["JobError", "connect", "embed"]

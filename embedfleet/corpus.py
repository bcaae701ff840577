"""Corpus jobs from Python: what `embedfleet encode` does, as a function (docs/corpus-jobs.md)."""

from __future__ import annotations

from embedfleet.own_packages import check_own_packages

check_own_packages()

from cluster.corpus.errors import JobError  # noqa: E402
from cluster.corpus.execution import Run  # noqa: E402
from cluster.corpus.job import Summary, encode_corpus  # noqa: E402
from cluster.corpus.settings import Settings  # noqa: E402

__all__ = ["JobError", "Run", "Settings", "Summary", "encode_corpus"]

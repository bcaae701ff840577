"""Corpus jobs from Python: `embedfleet encode` and `score` as functions (docs/corpus-jobs.md)."""

from __future__ import annotations

from embedfleet.own_packages import check_own_packages

check_own_packages()

from cluster.corpus.errors import JobError  # noqa: E402
from cluster.corpus.execution import Run  # noqa: E402
from cluster.corpus.job import Summary, encode_corpus, score_corpus  # noqa: E402
from cluster.corpus.settings import ScoreSettings, Settings  # noqa: E402

__all__ = [
    "JobError",
    "Run",
    "ScoreSettings",
    "Settings",
    "Summary",
    "encode_corpus",
    "score_corpus",
]

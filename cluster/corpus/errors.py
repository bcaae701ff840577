"""What keeps a job from starting, or from finishing."""

from __future__ import annotations


class JobError(Exception):
    """The message names what is wrong and says what to do."""


class WrongModel(JobError):
    """The service runs, but this model cannot answer: waiting does not help."""

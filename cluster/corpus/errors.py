"""The errors of a corpus job."""

from __future__ import annotations


class JobError(Exception):
    """A job cannot start or cannot finish. The message says what is wrong and what to do."""


class WrongModel(JobError):
    """The service runs, but cannot serve this model; waiting does not help."""


class StillLoading(JobError):
    """The service runs, and the model is on its way."""


class PartDamaged(Exception):
    """Files of a part are damaged or missing, so the part is encoded again. The message names them."""

"""One forward pass that never fails as a whole: a failing one is halved until what fails is alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from deployments.core.batch import Ids, TokenBatch, Vectors
from deployments.core.engine.device_errors import is_out_of_memory, reason_of
from deployments.core.engine.warmup import sample
from deployments.core.errors import EmbedfleetError, ModelUnavailable, TextFailed

if TYPE_CHECKING:
    from deployments.core.batching.lanes import QueuedText
    from deployments.core.batching.pending_call import PendingCall
    from deployments.core.engine.interface import Engine

log = logging.getLogger(__name__)
_PROBE_TOKENS = 8


class EngineBroken(Exception):
    """No forward pass succeeds any more, whatever its texts: after some CUDA errors none does."""


def run_pass(engine: Engine, texts: Sequence[Ids]) -> list[Vectors | EmbedfleetError]:
    """Returns for each text its vector ``(dimension,)`` or the error that it alone caused.

    Running out of memory splits the pass and tries the halves; so does any other error, so that a
    text that breaks the engine does not take its neighbours with it. Raises EngineBroken where no
    text is to blame.
    """
    try:
        return _checked(engine.forward(TokenBatch.from_arrays(texts)))
    except Exception as error:
        if is_out_of_memory(error):
            engine.free_memory()
        _check_engine(engine, error)
        if len(texts) == 1:
            return [_explained(error, len(texts[0]))]
        log.warning("a pass of %d texts failed and is halved: %s", len(texts), reason_of(error))
    middle = len(texts) // 2
    return run_pass(engine, texts[:middle]) + run_pass(engine, texts[middle:])


def run_waiting(
    engine: Engine, texts: Sequence[QueuedText[PendingCall]]
) -> list[Vectors | EmbedfleetError]:
    """Returns the same for texts of a lane, or for the one of a trial, whose call is told of it."""
    ids = [text.owner.batch.text(text.row) for text in texts]
    begin = texts[0].owner.begin
    if begin is None:
        return run_pass(engine, ids)
    try:
        begin(texts[0].row)
    except Exception as error:
        return [ModelUnavailable(f"a text that may kill replicas cannot be tried: {error}")]
    outcome = run_pass(engine, ids)
    with suppress(Exception):  # if it cannot be noted, the text has its vector nevertheless
        begin(None)  # what dies from here on has not died of it
    return outcome


def any_failed(outcome: Sequence[Vectors | EmbedfleetError]) -> bool:
    """Whether a text of a pass has an error in place of its vector."""
    return any(isinstance(result, EmbedfleetError) for result in outcome)


def _check_engine(engine: Engine, error: Exception) -> None:
    if isinstance(error, EmbedfleetError) or is_out_of_memory(error):
        return
    try:
        engine.forward(sample(engine, 1, _PROBE_TOKENS))
    except Exception as broken:
        if is_out_of_memory(broken):  # a neighbour's doing, and it passes
            return
        raise EngineBroken(f"{reason_of(error)}; then also {reason_of(broken)}") from error


def _checked(vectors: Vectors) -> list[Vectors | EmbedfleetError]:
    """A vector that is no number would spoil an index without a word."""
    finite = np.asarray(np.isfinite(vectors).all(axis=1)).tolist()
    return [v if good else _not_finite() for v, good in zip(vectors, finite, strict=True)]


def _not_finite() -> TextFailed:
    return TextFailed(
        "the model's vector for this text is not finite; its precision is too small for it: set "
        "the model's `dtype` to bfloat16 or float32"
    )


def _explained(error: Exception, tokens: int) -> EmbedfleetError:
    if isinstance(error, EmbedfleetError):
        return error
    if is_out_of_memory(error):
        return TextFailed(f"one text of {tokens} tokens does not fit the device's memory")
    return TextFailed(f"the engine failed on a text of {tokens} tokens: {reason_of(error)}")

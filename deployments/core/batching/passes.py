"""Runs a forward pass so that one text cannot fail the others: a failing pass is halved and retried."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from deployments.core.batch import AnyVectors, TokenBatch
from deployments.core.engine.device_errors import is_out_of_memory, reason_of
from deployments.core.engine.warmup import sample
from deployments.core.errors import EmbedfleetError, ModelUnavailable, TextFailed
from deployments.core.sparse import SparseVectors

if TYPE_CHECKING:
    from deployments.core.batching.lanes import QueuedText
    from deployments.core.batching.pending_call import PendingCall
    from deployments.core.engine.interface import Engine

log = logging.getLogger(__name__)
_PROBE_TOKENS = 8


class EngineBroken(Exception):
    """No forward pass succeeds any longer, whatever its texts, as after some CUDA errors."""


def run_pass(engine: Engine, batch: TokenBatch) -> list[AnyVectors | EmbedfleetError]:
    """Returns for each text its vector ``(dimension,)``, a single sparse one, or the error it caused.

    If the pass runs out of memory or fails otherwise, its halves are tried in turn, so a text that
    makes the engine fail does not fail its neighbours. Raises EngineBroken if no text is to blame.
    """
    try:
        return _checked(engine.forward(batch))
    except Exception as error:
        if is_out_of_memory(error):
            engine.free_memory()
        _check_engine(engine, error)
        if len(batch) == 1:
            return [_explained(error, batch.tokens)]
        log.warning(
            "a pass of %d texts failed; trying its halves: %s", len(batch), reason_of(error)
        )
    middle = len(batch) // 2
    return run_pass(engine, batch.slice(0, middle)) + run_pass(
        engine, batch.slice(middle, len(batch))
    )


def run_waiting(
    engine: Engine, texts: Sequence[QueuedText[PendingCall]]
) -> list[AnyVectors | EmbedfleetError]:
    """Runs a pass of queued texts, as `run_pass`; a trial's ``begin`` is called before and after it."""
    batch = TokenBatch.gather([(text.owner.batch, text.row) for text in texts])
    begin = texts[0].owner.begin
    if begin is None:
        return run_pass(engine, batch)
    try:
        begin(texts[0].row)
    except Exception as error:
        return [ModelUnavailable(f"a text that may kill replicas could not be tried: {error}")]
    outcome = run_pass(engine, batch)
    with suppress(Exception):  # the text has its vector even if this cannot be recorded
        begin(None)  # the text is not to blame if the process dies from here on
    return outcome


def any_failed(outcome: Sequence[AnyVectors | EmbedfleetError]) -> bool:
    """Whether a text of a pass has an error in place of its vector."""
    return any(isinstance(result, EmbedfleetError) for result in outcome)


def _check_engine(engine: Engine, error: Exception) -> None:
    if isinstance(error, EmbedfleetError) or is_out_of_memory(error):
        return
    try:
        engine.forward(sample(engine, 1, _PROBE_TOKENS))
    except Exception as broken:
        if is_out_of_memory(broken):  # another process holds the memory for now
            return
        raise EngineBroken(
            f"{reason_of(error)}; a probe then also failed: {reason_of(broken)}"
        ) from error


def _checked(vectors: AnyVectors) -> list[AnyVectors | EmbedfleetError]:
    """Replaces vectors with NaN or infinity by errors: they would silently corrupt an index."""
    if isinstance(vectors, SparseVectors):
        rows = vectors.rows()
        return [row if np.isfinite(row.values).all() else _not_finite() for row in rows]
    finite = np.asarray(np.isfinite(vectors).all(axis=1)).tolist()
    return [v if good else _not_finite() for v, good in zip(vectors, finite, strict=True)]


def _not_finite() -> TextFailed:
    return TextFailed(
        "the model's vector for this text is not finite because it overflows the model's precision; "
        "set the model's `dtype` to bfloat16 or float32"
    )


def _explained(error: Exception, tokens: int) -> EmbedfleetError:
    if isinstance(error, EmbedfleetError):
        return error
    if is_out_of_memory(error):
        return TextFailed(f"a single text of {tokens} tokens does not fit in the device's memory")
    return TextFailed(f"the engine failed on a text of {tokens} tokens: {reason_of(error)}")

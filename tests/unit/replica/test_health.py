"""A replica without Ray: when its health check fails."""

from __future__ import annotations

import time
from contextlib import nullcontext

import pytest

from deployments.core.background_loader import NeedsNewProcess
from deployments.core.batch import Encoded
from deployments.core.errors import EmbedfleetError, ModelUnavailable
from deployments.replica import deployment as encoder_module
from tests.support.batching import hold
from tests.support.encoders import encode


async def test_a_new_replica_is_probed_with_a_real_pass(encoder, engine):
    await encoder.check_health()
    assert len(engine.passes) == 1


async def test_a_busy_replica_needs_no_probe(encoder, engine):
    assert isinstance(await encode(encoder, [7]), Encoded)
    await encode(encoder, [8])  # by now the loop has recorded the first
    await encoder.check_health()
    assert engine.passes == [[7], [8]]


@pytest.mark.parametrize(
    "error", [lambda: RuntimeError("CUDA error: device-side assert"), MemoryError]
)
async def test_a_failing_pass_is_unhealthy(encoder, engine, error):
    engine.poison, engine.error = int(encoder_module.sample(engine, 1, 8).ids[0]), error
    with pytest.raises(EmbedfleetError):
        await encoder.check_health()


async def test_a_hanging_probe_is_unhealthy(encoder, engine, batcher, monkeypatch):
    monkeypatch.setattr(encoder_module, "_PROBE_TIMEOUT_S", 0.01)
    hold(batcher, engine)
    with pytest.raises(TimeoutError):
        await encoder.check_health()


async def test_a_hanging_pass_is_unhealthy_without_a_probe(encoder, engine, batcher, monkeypatch):
    monkeypatch.setattr(encoder_module, "_PASSES_BEFORE_WEDGED", 0.0)
    encoder.wedged_after_s = 0.0
    hold(batcher, engine)
    time.sleep(0.01)
    with pytest.raises(RuntimeError, match="forward pass"):
        await encoder.check_health()


async def test_a_slow_model_is_given_time(encoder, engine, batcher, monkeypatch):
    monkeypatch.setattr(encoder_module, "_needs_probe", lambda _: False)
    encoder.wedged_after_s = 0.0
    assert encoder._model.value.longest_pass_s > 1
    hold(batcher, engine)
    await encoder.check_health()


async def test_an_ended_loop_is_unhealthy(encoder, batcher):
    batcher.stop()
    with pytest.raises(RuntimeError, match="loop"):
        await encoder.check_health()


@pytest.mark.parametrize(
    ("error", "explain_s", "unhealthy"),
    [(NeedsNewProcess, 0.0, True), (NeedsNewProcess, 60.0, False), (ModelUnavailable, 0.0, False)],
)
async def test_a_replica_that_needs_a_new_process_first_explains_why(
    make_encoder, monkeypatch, error, explain_s, unhealthy
):
    def fail():
        raise error("CUDA does not start")

    monkeypatch.setattr(encoder_module, "_EXPLAIN_S", explain_s)
    encoder = make_encoder(fail)
    assert "CUDA does not start" in (await encode(encoder, [1])).message
    with pytest.raises(RuntimeError, match="CUDA") if unhealthy else nullcontext():
        await encoder.check_health()

"""From a config and measurements to a loaded model; and what happens if loading fails."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from deployments.config.schema import Limits, ModelConfig
from deployments.core.background_loader import NeedsNewProcess
from deployments.core.batching.lanes import BatchLimits
from deployments.core.engine.calibration import Calibration
from deployments.core.engine.cpu.linear import ONE_DNN
from deployments.core.errors import ModelUnavailable
from deployments.replica import loading as replica
from deployments.replica.loading import lend_threads, load_model
from deployments.replica.pass_plan import ThreadPlan, lane_limits, shared_budget, worth_a_pass
from tests.support.batching import PATIENCE_S, submit
from tests.support.fake_engine import FakeEngine

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("budget", "rounded", "shared"),
    [
        (256, ONE_DNN.rounded, 112),  # 0.4 of it are 102, and 112 are computed
        (1_024, ONE_DNN.rounded, 448),
        (1_024, int, 409),
        (650, lambda _: 384, 260),  # a short pass of a GPU is filled up to much more
        (16, ONE_DNN.rounded, 6),
    ],
)
def test_shared_passes_are_filled_up_to_what_is_computed_anyway(budget, rounded, shared):
    assert shared_budget(budget, rounded) == shared


@pytest.mark.parametrize(
    ("budget", "tokens_per_s", "worth"),
    [(1_024, 20_000, 300), (1_024, 90_000, 409), (256, 7_500, 102)],
)
def test_a_pass_beside_another_is_worth_a_part_of_the_budget_or_a_time(budget, tokens_per_s, worth):
    assert worth_a_pass(budget, tokens_per_s) == worth


class Lender:
    """An engine that starts a thread when it is told to lend threads."""

    def __init__(self, lends: bool) -> None:
        self.lends, self.calls, self.end = lends, [], threading.Event()

    def lend_threads(self, most: int, max_tokens: int) -> bool:
        self.calls.append(("lend", most, max_tokens))
        threading.Thread(target=self.end.wait, args=(10,), daemon=True).start()
        return self.lends

    def slow_at_first(self, most: int) -> list[int]:
        self.calls.append(("warm up", most))
        return []


@pytest.mark.parametrize(
    ("split", "lends", "calls"),
    [
        (ThreadPlan(4, 4), True, [("lend", 4, 256), ("warm up", 256)]),
        (ThreadPlan(7, 4), True, [("lend", 7, 256), ("warm up", 256)]),
        (ThreadPlan(4, 4, preempt=True), True, [("lend", 4, 256), ("warm up", 256)]),
        (ThreadPlan(4, 4), False, [("lend", 4, 256)]),
        (ThreadPlan(4, 1), True, []),
        (ThreadPlan(4, 2), True, []),
        (ThreadPlan(1, 1), True, []),
    ],
)
def test_idle_streams_lend_their_threads_to_a_single_text(split, lends, calls):
    engine = Lender(lends)
    started = lend_threads(engine, split, max_tokens=256)
    engine.end.set()
    assert engine.calls == calls
    assert bool(started) == bool(calls)


@pytest.mark.parametrize("preempt", [False, True])
def test_the_thread_plan_decides_what_runs_at_once(preempt):
    engine = SimpleNamespace(pads=False, rounded=int)
    limits = lane_limits(engine, Limits(), Calibration(256, 8_000.0), ThreadPlan(4, 4, preempt))
    assert limits == BatchLimits(
        256, 102, pads=False, streams=4, worth_a_pass=30, preempt=preempt, offline_patience_s=2.0
    )


LOST = "CUDA error: unspecified launch failure"
STEPS = ["_free_failed_load", "_refuse_other_device", "plan_threads", "_engine", "calibrate"]


@pytest.fixture
def loads(monkeypatch):
    """Loads a model on a GPU that answers or does not; one of the steps raises."""

    def load(step, error, answering=True, initialised=True):
        def fails(*_):
            raise error

        files = SimpleNamespace(spec=SimpleNamespace(max_tokens=256))
        monkeypatch.setattr(replica, "_free_failed_load", lambda: None)
        monkeypatch.setattr(replica, "find_model", lambda *_: files)
        engine = SimpleNamespace(device=CPU)
        monkeypatch.setattr(replica, "_engine", lambda *_: (engine, files, None))
        monkeypatch.setattr(replica, step, fails)
        monkeypatch.setattr(replica, "answers", lambda device: answering)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialised)
        load_model(ModelConfig(name="all-MiniLM-L6-v2"), Limits())

    return load


@pytest.fixture
def ended(monkeypatch):
    calls = []
    monkeypatch.setattr(replica, "_end_process", lambda: calls.append(1))
    return calls


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", [torch.AcceleratorError, RuntimeError])
def test_a_replica_ends_with_its_gpu(loads, ended, step, kind):
    with pytest.raises(kind, match=LOST):
        loads(step, kind(LOST), answering=False)
    assert ended


@pytest.mark.parametrize("seen", [{"answering": True}, {"answering": False, "initialised": False}])
def test_a_replica_survives_an_error_if_its_gpu_answers_or_it_has_none(loads, ended, seen):
    with pytest.raises(RuntimeError, match="of another shape"):
        loads("_engine", RuntimeError("of another shape"), **seen)
    assert not ended


def test_a_replica_ends_with_its_engines_loop(ended):
    engine = FakeEngine(poison=7, error=SystemExit)
    engine.pads, engine.rounded = False, int
    config = ModelConfig(name="all-MiniLM-L6-v2")
    pace, split = Calibration(256, 8_000.0), ThreadPlan(1, 1)
    batcher = replica._batcher(engine, config, Limits(), pace, split)
    with pytest.raises(ModelUnavailable):
        submit(batcher, [7]).result(PATIENCE_S)
    batcher.stop()
    assert ended == [1]


@pytest.mark.parametrize("step", ["_engine", "calibrate"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_the_error_of_a_model_that_does_not_fit_names_the_setting(loads, ended, step, error):
    with pytest.raises(ModelUnavailable, match="`token_budget`"):
        loads(step, error, answering=False)
    assert not ended


@pytest.mark.parametrize(
    ("listed", "kind", "why"),
    [(1, NeedsNewProcess, "CUDA does not start"), (0, ModelUnavailable, "sees no CUDA device")],
)
def test_a_gpu_that_cuda_cannot_use_is_not_replaced_by_the_cpu(monkeypatch, listed, kind, why):
    monkeypatch.setattr(replica, "assigned_gpus", lambda: ("0",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: listed)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ModelUnavailable, match=why) as refused:
        load_model(ModelConfig(name="all-MiniLM-L6-v2", num_gpus=1), Limits())
    assert type(refused.value) is kind

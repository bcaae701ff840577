"""Loads a model and makes it ready to encode. Imports torch, so only replicas import this file."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import ray
import torch

from deployments.config.schema import Limits, ModelConfig
from deployments.core.background_loader import NeedsNewProcess
from deployments.core.batch import TokenBatch
from deployments.core.batching.batcher import Batcher
from deployments.core.checking.verdict import Engines, Verdict, checked_engine
from deployments.core.engine.calibration import Calibration, calibrate
from deployments.core.engine.cpu.priority import engine_goes_first, thread_ids
from deployments.core.engine.cuda.pinning import (
    Memory,
    VisibleDevices,
    device_problem,
    memory_problem,
    share_of_device,
)
from deployments.core.engine.device import (
    PassSizes,
    answers,
    choose_device,
    cuda_devices,
    pass_sizes,
)
from deployments.core.engine.device_errors import is_out_of_memory, reason_of
from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.warmup import passages, run_at_once, warm_up, warm_up_alone
from deployments.core.errors import ModelUnavailable
from deployments.core.lane import Lane
from deployments.core.models.describing import described
from deployments.core.models.description import Description
from deployments.core.models.loading import ModelFiles, find_model
from deployments.metrics import BatcherMetrics
from deployments.replica.loaded_model import LoadedModel
from deployments.replica.pass_plan import ThreadPlan, lane_limits, plan_threads
from deployments.wire.descriptions import publish

log = logging.getLogger("ray.serve")


def load_model(config: ModelConfig, limits: Limits) -> LoadedModel:
    """Fetches, checks, loads, calibrates and warms up a model.

    Raises ModelUnavailable or UnsupportedModel with the reason and the fix. Ends the process if its
    GPU is lost.
    """
    with _device_errors_explained(config):
        return _load(config, limits)


@contextmanager
def _device_errors_explained(config: ModelConfig) -> Iterator[None]:
    """Turns a lack of memory into advice, and ends the process if the GPU is lost.

    A new process may reach the GPU again.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # CUDA's errors are RuntimeErrors
        if is_out_of_memory(error):
            on_gpu = config.device_to_use != "cpu"
            raise ModelUnavailable(memory_problem(on_gpu, reason_of(error))) from error
        uses_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        if uses_cuda and not answers(choose_device(config.device_to_use)):
            log.critical("%s: the GPU no longer answers, this replica ends: %s", config.name, error)
            _end_process()
        raise


def _load(config: ModelConfig, limits: Limits) -> LoadedModel:
    started = time.monotonic()
    _free_failed_load()
    assigned = assigned_gpus()
    _refuse_other_device(config, assigned)
    files = find_model(config.name, config.path, config.revision, config.overrides)
    split = plan_threads(config)
    engine, description, verdict = _engine(config, files, split)
    max_tokens, streams = description.spec.max_tokens, split.streams
    budget = config.token_budget
    sizes = PassSizes((budget,)) if budget else pass_sizes(engine.device)
    pace = calibrate(engine, sizes, max_tokens, streams)
    full_passes = [passages(engine, pace.token_budget, max_tokens)] * streams
    memory = _memory(engine, config, full_passes)
    warm_up(engine, pace.token_budget, max_tokens)
    team = lend_threads(engine, split, max_tokens)
    batcher = _batcher(engine, config, limits, pace, split)
    engine_goes_first(batcher.urgent_threads | team)
    start_s = time.monotonic() - started
    model = LoadedModel(
        description.spec,
        engine,
        batcher,
        device=_device_name(engine.device),
        dtype=str(engine.dtype).removeprefix("torch."),
        start_s=start_s,
        token_budget=pace.token_budget,
        gpu_ids=assigned,
        memory=memory,
        verdict=verdict,
    )
    _log_ready(config, model, split)
    return model


def _free_failed_load() -> None:
    """Frees the memory of an earlier attempt that failed, which would be missing for this one."""
    gc.collect()
    torch.cuda.empty_cache()


def _engine(
    config: ModelConfig, files: ModelFiles, split: ThreadPlan
) -> tuple[TorchEngine, Description, Verdict]:
    """Describes the model, checks the description and the vectors, and makes the description known."""
    description = described(files)
    engines = Engines(description, files, config.device_to_use, config.dtype, split.each)
    # the threads that OpenMP starts for loading end with the thread that loads: see `PassThreads.lend`
    with ThreadPoolExecutor(1) as loader:
        engine, verdict = loader.submit(checked_engine, engines).result()
    publish(config, description, is_loaded=True)
    return engine, description, verdict


def lend_threads(engine: TorchEngine, split: ThreadPlan, max_tokens: int) -> set[int]:
    """Lets a single text use the threads of idle streams; returns the ids of the threads started for
    it.
    """
    # streams of several threads have a team each, and a further team would put them to sleep
    if split.streams == 1 or split.each > 1:
        return set()
    before = thread_ids()
    if engine.lend_threads(split.threads, max_tokens):
        warm_up_alone(engine, max_tokens)
    return thread_ids() - before


def _batcher(
    engine: TorchEngine, config: ModelConfig, limits: Limits, pace: Calibration, split: ThreadPlan
) -> Batcher:
    batcher = Batcher(
        engine,
        lane_limits(engine, limits, pace, split),
        {Lane.ONLINE: limits.online_max_wait_s, Lane.OFFLINE: limits.offline_max_wait_s},
        pace.tokens_per_s,
        BatcherMetrics(config.name, pace.token_budget),
    )
    batcher.on_death = _end_process
    return batcher


def _end_process() -> None:
    """Ends this replica: Serve replaces it at once, and clients repeat the calls that it had.

    If it only failed its health checks, it would answer calls with errors for another half a minute.
    """
    logging.shutdown()
    os._exit(1)


def assigned_gpus() -> tuple[str, ...]:
    """Returns the ids of the GPUs that Ray has assigned to this process."""
    if not ray.is_initialized():
        return ()
    return tuple(map(str, ray.get_runtime_context().get_accelerator_ids().get("GPU", ())))


def _refuse_other_device(config: ModelConfig, assigned: tuple[str, ...]) -> None:
    """Raises unless this process sees the GPU that Ray has assigned, and limits it to its share."""
    if config.device == "cpu":  # so any GPUs are logical ones
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = VisibleDevices(visible, cuda_devices(), torch.cuda.device_count())
    if not config.num_gpus and config.device == "auto" and seen.devices:
        log.info(
            "%s runs on the CPU of this GPU node, since its config has no `num_gpus`", config.name
        )
    if problem := device_problem(config.num_gpus, assigned, seen):
        raise NeedsNewProcess(problem) if seen.only_listed else ModelUnavailable(problem)
    if 0 < config.num_gpus < 1:  # a replica must not take its neighbours' memory
        _, total = torch.cuda.mem_get_info()
        share = share_of_device(config.num_gpus, total)
        torch.cuda.set_per_process_memory_fraction(share / total)


def _memory(
    engine: TorchEngine, config: ModelConfig, batches: Sequence[TokenBatch]
) -> Memory | None:
    """Returns the device memory that the weights and these passes, run at once, take."""
    if engine.device.type != "cuda":
        return None
    torch.cuda.empty_cache()  # calibration may have tried larger passes
    torch.cuda.reset_peak_memory_stats(engine.device)
    run_at_once(engine, batches)
    _, total = torch.cuda.mem_get_info(engine.device)
    used = torch.cuda.max_memory_reserved(engine.device)
    return Memory(used, share_of_device(config.num_gpus, total))


def _device_name(device: torch.device) -> str:
    """Returns the device, with its product name if it is a GPU."""
    if device.type != "cuda":
        return device.type
    return f"{device} ({torch.cuda.get_device_name(device)})"


def _placement(model: LoadedModel) -> str:
    memory = model.memory
    share = f", {memory.used_mib} of {memory.limit_mib} MiB" if memory else ""
    return f"{model.device}, GPU {', '.join(model.gpu_ids) or 'none'} assigned{share}"


def _log_ready(config: ModelConfig, model: LoadedModel, split: ThreadPlan) -> None:
    for notice in model.spec.notices:
        log.warning("%s: %s", config.name, notice)
    log.info(
        "%s is ready after %.1f s: %s path, %s on %s, %d × %d threads, %.0f tokens/s, "
        "token budget %d, pid %d",
        config.name,
        model.start_s,
        model.verdict.network if model.verdict else "unknown",
        model.dtype,
        _placement(model),
        split.streams,
        split.each,
        model.batcher.tokens_per_s,
        model.token_budget,
        os.getpid(),
    )

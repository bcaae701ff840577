"""One model on one device. The engine knows token ids and vectors only.

It does not know texts, prompts, requests, lanes or Ray. One call is one forward pass; who shares
it is decided by `lanes` online and by `packing` where all texts are at hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModel, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from deployments.embedding.batch import TokenBatch, Vectors
from deployments.embedding.device import choose_device, choose_dtype
from deployments.embedding.errors import ModelUnavailable, UnsupportedModel
from deployments.embedding.model import ModelSpec
from deployments.embedding.packing import pack
from deployments.embedding.pooling import POOLERS


class Engine(Protocol):
    """What the encoder needs of an engine."""

    dimension: int
    vocabulary: int

    def forward(self, batch: TokenBatch) -> Vectors:
        """Returns pooled, unnormalised float32 vectors ``(texts, dimension)`` of one pass."""
        ...


class TorchEngine:
    """A transformers model in evaluation mode, pooled in float32."""

    def __init__(
        self, spec: ModelSpec, model_dir: Path, device: str = "auto", dtype: str = "auto"
    ) -> None:
        """Loads the weights (safetensors only, no remote code).

        Raises UnsupportedModel when the files are not the model that ``spec`` describes or cannot
        run as asked, ModelUnavailable when they cannot be read.
        """
        self.device = choose_device(device)
        self.dtype = choose_dtype(spec, self.device, dtype)
        self._model = _load(model_dir, self.dtype, self.device)
        self._pool = POOLERS[spec.pooling]
        self._pad_id = int(self._model.config.pad_token_id or 0)
        self.dimension = int(self._model.config.hidden_size)
        self.vocabulary = int(self._model.config.vocab_size)
        _check(spec, self._model)

    @torch.inference_mode()
    def forward(self, batch: TokenBatch) -> Vectors:
        """Returns float32 ``(texts, dimension)``, pooled and not normalised, in the batch's order."""
        ids, mask = batch.padded(self._pad_id)
        input_ids = torch.from_numpy(ids).to(self.device)
        attention_mask = torch.from_numpy(mask).to(self.device)
        hidden = self._model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled: Vectors = self._pool(hidden, attention_mask).cpu().numpy()
        return pooled


def encode_all(engine: Engine, batch: TokenBatch, token_budget: int) -> Vectors:
    """Returns float32 ``(texts, dimension)`` for texts of any number, packed by token budget."""
    vectors = np.empty((len(batch), engine.dimension), np.float32)
    for rows in pack(batch.lengths.tolist(), token_budget):
        vectors[rows] = engine.forward(batch.select(rows))
    return vectors


def _load(model_dir: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, report = AutoModel.from_pretrained(
            model_dir,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelUnavailable(f"the weights in {model_dir} cannot be loaded: {error}") from error
    _refuse_missing_weights(model_dir, set(report["missing_keys"]))
    model.config.use_cache = False  # nothing is generated
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # computed, but read by no pooling of ours
    return cast(PreTrainedModel, torch.nn.Module.to(model, device).eval())


def _refuse_missing_weights(model_dir: Path, missing: set[str]) -> None:
    """Transformers fills missing weights with random numbers and only warns."""
    lost = sorted(key for key in missing if not key.startswith("pooler."))
    if lost:
        raise ModelUnavailable(
            f"the weights in {model_dir} lack {len(lost)} tensors, {lost[0]} among them: "
            "the files are damaged or of another model"
        )


def _check(spec: ModelSpec, model: PreTrainedModel) -> None:
    found = (str(model.config.model_type), int(model.config.hidden_size))
    if found != (spec.backbone, spec.dimension):
        raise UnsupportedModel(
            f"the files are a {found[0]} model of dimension {found[1]}, but {spec.name} is a "
            f"{spec.backbone} model of dimension {spec.dimension}: wrong `path`?"
        )

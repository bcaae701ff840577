"""Loads a model's weights from its files; refuses incomplete files and those of another model."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModel, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from deployments.core.errors import ModelUnavailable, UnsupportedModel
from deployments.core.models.spec import ModelSpec

_HALF = {"F16": torch.float16, "BF16": torch.bfloat16}


def load_pretrained(
    spec: ModelSpec,
    model_dir: Path,
    dtype: torch.dtype | None,
    device: torch.device,
    attention: str | None = None,
) -> PreTrainedModel:
    """Returns the model in evaluation mode: safetensors only, no remote code.

    ``dtype`` is that of the weights, None for the stored one; ``attention`` is the name of an
    attention function registered with transformers, or None for its default. Raises ModelUnavailable
    if the files cannot be read or lack weights, UnsupportedModel if they are not the model that
    ``spec`` describes.
    """
    model = _read(model_dir, dtype, attention)
    _check(spec, model)
    torch.nn.Module.to(model, device)
    return model


def _read(model_dir: Path, dtype: torch.dtype | None, attention: str | None) -> PreTrainedModel:
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, report = AutoModel.from_pretrained(
            model_dir,
            dtype=dtype or _stored_dtype(model_dir),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelUnavailable(f"the weights in {model_dir} cannot be loaded: {error}") from error
    _refuse_missing_weights(model_dir, set(report["missing_keys"]))
    model.config.use_cache = False  # nothing is generated
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # computed, but read by no pooling of ours
    return cast(PreTrainedModel, model.eval())


def _stored_dtype(model_dir: Path) -> torch.dtype:
    """Returns a precision that holds all stored weights exactly; the config may name a narrower one."""
    dtypes: set[torch.dtype] = set()
    for file in model_dir.glob("model*.safetensors"):
        with safe_open(file, "pt") as weights:
            names = (weights.get_slice(name).get_dtype() for name in weights.keys())  # noqa: SIM118
            dtypes |= {_HALF.get(name, torch.float32) for name in names}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def _refuse_missing_weights(model_dir: Path, missing: set[str]) -> None:
    """Raises ModelUnavailable: transformers fills missing weights with random numbers and only warns."""
    lost = sorted(key for key in missing if not key.startswith("pooler."))
    if lost:
        raise ModelUnavailable(
            f"the weights in {model_dir} lack {len(lost)} tensors, {lost[0]} among them: the files are "
            "damaged or belong to another model; download them again"
        )


def _check(spec: ModelSpec, model: PreTrainedModel) -> None:
    backbone, dimension = str(model.config.model_type), int(model.config.hidden_size)
    if (backbone, dimension) != (spec.backbone, spec.dimension):
        raise UnsupportedModel(
            f"the files are a {backbone} model of dimension {dimension}, but {spec.name} is a "
            f"{spec.backbone} model of dimension {spec.dimension}; is the model's `path` wrong?"
        )

"""Loads a model's weights from its files, and refuses files that lack some."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

from deployments.core.errors import ModelUnavailable

_POSITIONS = frozenset({"position_embeddings", "embed_positions", "wpe"})
_HALF = {"F16": torch.float16, "BF16": torch.bfloat16}


def load_pretrained(
    model_dir: Path,
    dtype: torch.dtype | None,
    device: torch.device,
    attention: str | None = None,
) -> PreTrainedModel:
    """Returns the model in evaluation mode: safetensors only, no remote code.

    ``dtype`` is that of the weights, None for the stored one; ``attention`` is the name of an
    attention function registered with transformers, or None for its default. Raises ModelUnavailable
    if the files cannot be read or lack weights.
    """
    model: Any = _read(AutoModel, model_dir, dtype, attention)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # computed, but read by no pooling of ours
    torch.nn.Module.to(model, device)
    return cast(PreTrainedModel, model)


def load_with_head(
    model_dir: Path,
    dtype: torch.dtype | None,
    device: torch.device,
    attention: str | None = None,
    *,
    causal: bool = False,
) -> PreTrainedModel:
    """Returns a sequence classifier or a ``causal`` language model, as `load_pretrained` does."""
    auto = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    model = _read(auto, model_dir, dtype, attention)
    torch.nn.Module.to(model, device)
    return model


def _read(
    auto: Any, model_dir: Path, dtype: torch.dtype | None, attention: str | None
) -> PreTrainedModel:
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, report = auto.from_pretrained(
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
    refuse_missing_weights(model_dir, set(report["missing_keys"]))
    model.config.use_cache = False  # nothing is generated
    return cast(PreTrainedModel, model.eval())


def _stored_dtype(model_dir: Path) -> torch.dtype:
    """Returns a precision that holds all stored weights exactly; the config may name a narrower one."""
    dtypes: set[torch.dtype] = set()
    for file in model_dir.glob("model*.safetensors"):
        with safe_open(file, "pt") as weights:
            names = (weights.get_slice(name).get_dtype() for name in weights.keys())  # noqa: SIM118
            dtypes |= {_HALF.get(name, torch.float32) for name in names}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def refuse_missing_weights(model_dir: Path, missing: set[str]) -> None:
    """Raises ModelUnavailable: transformers fills missing weights with random numbers and only warns."""
    lost = sorted(key for key in missing if not key.startswith("pooler."))
    if lost:
        raise ModelUnavailable(
            f"the weights in {model_dir} lack {len(lost)} tensors, {lost[0]} among them: the files are "
            "damaged or belong to another model; download them again"
        )


def positions_of(model: torch.nn.Module) -> float:
    """Returns how many tokens a text may have: the rows of the table of learned positions, less those
    that no token uses. Infinity without such a table.
    """
    return min(
        (_usable(module) for name, module in model.named_modules() if _is_table(name, module)),
        default=math.inf,
    )


def _is_table(name: str, module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Embedding) and name.rsplit(".", 1)[-1] in _POSITIONS


def _usable(table: torch.nn.Module) -> int:
    assert isinstance(table, torch.nn.Embedding)
    padding, offset = table.padding_idx, int(getattr(table, "offset", 0))
    # RoBERTa's positions start behind the padding id
    return table.num_embeddings - (offset if padding is None or offset else padding + 1)

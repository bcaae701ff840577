"""What sentence-transformers computes from token ids, to compare an engine with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from deployments.core.batch import TokenBatch, Vectors
from deployments.core.models.spec import ModelSpec, Pooling, Role

LENGTHS = (1, 2, 3, 17, 33, 64, 5, 48)


_POOLING = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST_TOKEN}


def spec_of(folder: Path, backbone: str, pooling: str = "mean", **changes: Any) -> ModelSpec:
    """A description for an engine; modules in ``folder`` that do more than pool say the rest."""
    spec = ModelSpec("own", str(folder), "0", backbone, _POOLING[pooling], 32, 64)
    return replace(spec, **changes)


def batch_of(lengths: Sequence[int] = LENGTHS, vocabulary: int = 1_000) -> TokenBatch:
    """Random texts of these lengths, without special tokens."""
    dice = np.random.default_rng(sum(lengths))
    return TokenBatch.from_lists([dice.integers(5, vocabulary, n).tolist() for n in lengths])


def with_prompts(batch: TokenBatch, roles: Sequence[Role], prompts: Sequence[int]) -> TokenBatch:
    """The batch with each text's role and the length of its prompt."""
    numbers = [tuple(Role).index(role) for role in roles]
    return replace(batch, prompts=np.array([*zip(numbers, prompts, strict=True)], np.int32))


@torch.no_grad()
def reference(
    folder: Path, batch: TokenBatch, roles: Sequence[Role] = (), prompts: Sequence[int] = ()
) -> Vectors:
    """sentence-transformers' vectors in float32, each text alone; normalised if the model does so."""
    model = SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": torch.float32}, local_files_only=True
    ).eval()
    vectors = []
    for row in range(len(batch)):
        ids = torch.tensor(batch.text(row).astype(np.int64))
        task = roles[row].value if roles else "document"
        features = _features(model, ids, task)
        if prompts and prompts[row]:
            features["prompt_length"] = prompts[row]
        vectors.append(model(features, task=task)["sentence_embedding"][0].float().numpy())
    return np.stack(vectors)


def _features(model: SentenceTransformer, ids: torch.Tensor, task: str) -> dict[str, Any]:
    # as the model makes them of texts: which of them it takes is up to its first module
    made = model.preprocess(["a"], task=task)
    features: dict[str, Any] = {
        **made,
        "input_ids": ids if made["input_ids"].ndim == 1 else ids[None],
    }
    if "attention_mask" in made:
        features["attention_mask"] = torch.ones_like(features["input_ids"])
    if "token_type_ids" in made:
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    return features

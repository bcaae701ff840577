"""The way of a text to its vector, through the same parts as in the service, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deployments.core.batch import Vectors
from deployments.core.engine.engine import TorchEngine
from deployments.core.models.prompts import render
from deployments.core.models.spec import ModelSpec, Role
from deployments.core.models.tokenizer import FastTokenizer
from deployments.core.vectors import finished
from testing.encode_all import encode_all


def encode(
    spec: ModelSpec,
    folder: Path,
    texts: Sequence[str],
    role: Role = Role.DOCUMENT,
    instruction: str | None = None,
    dtype: str = "float32",
    token_budget: int = 512,
) -> Vectors:
    """Returns float32 ``(texts, dimension)``, each text cut to the model's limit."""
    rendered = render(spec, texts, role, instruction)
    batch = FastTokenizer(spec, folder).tokenize(rendered, truncate=True).batch
    engine = TorchEngine(spec, folder, "cpu", dtype)
    return finished(encode_all(engine, batch, token_budget), spec.dimension, spec.normalize)

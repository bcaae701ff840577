"""The way of a text to its vector, through the same parts as in the service, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.core.batch import Vectors
from deployments.core.checking.verdict import Engines
from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.interface import Network
from deployments.core.models.description import Description, describe
from deployments.core.models.loading import ModelFiles
from deployments.core.models.prompts import prefix, render
from deployments.core.models.spec import ModelSpec, Role
from deployments.core.models.tokenizer import FastTokenizer
from deployments.core.vectors import finished
from testing.encode_all import encode_all


@dataclass(frozen=True)
class Pipeline:
    """A loaded model. Texts are cut to the model's limit."""

    spec: ModelSpec
    tokenizer: FastTokenizer
    engine: TorchEngine

    @classmethod
    def load(cls, spec: ModelSpec, folder: Path, dtype: str = "float32") -> Pipeline:
        """Loads the model in ``folder``, as a replica and its clients do."""
        description: Description = describe(spec, folder)
        network = Network.GENERAL if description.not_fast else Network.AUTO
        engine = Engines(description, ModelFiles(spec, folder), "cpu", dtype).load(network)
        return cls(description.spec, description.fast_tokenizer(), engine)

    def encode(
        self,
        texts: Sequence[str],
        role: Role = Role.DOCUMENT,
        instruction: str | None = None,
        token_budget: int = 512,
    ) -> Vectors:
        """Returns float32 ``(texts, dimension)``."""
        rendered = render(self.spec, texts, role, instruction)
        batch = self.tokenizer.tokenize(rendered, truncate=True).batch
        batch = self.tokenizer.with_prompts(batch, role, prefix(self.spec, role, instruction))
        vectors = encode_all(self.engine, batch, token_budget)
        return finished(vectors, self.spec.output_dimension, self.spec.normalize)


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
    pipeline = Pipeline.load(spec, folder, dtype)
    return pipeline.encode(texts, role, instruction, token_budget)

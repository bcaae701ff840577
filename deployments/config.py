"""The typed ``args`` of ``serve_config.yaml``. A wrong field is refused by name before anything runs."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from deployments.embedding.catalog import CATALOG
from deployments.embedding.model import Size


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Autoscaling(_Config):
    """Bounds of a model's replicas; 0 as minimum lets an unused model leave the GPU."""

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        return self


class ModelConfig(_Config):
    """One model to serve.

    ``name`` is a catalog name, or any name of your own together with ``path``: a folder or a hub id
    in sentence-transformers format. With a catalog name, ``path`` says where its weights lie.
    """

    name: str = Field(min_length=1, max_length=200)
    path: str | None = Field(None, min_length=1)
    revision: str | None = None
    size: Size | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    num_gpus: float = Field(0, ge=0)
    num_cpus: float = Field(1, ge=0)
    threads: int | None = Field(None, ge=1)
    resources: dict[str, float] = {}
    accelerator_type: str | None = None
    replicas: PositiveInt | Autoscaling = 1
    token_budget: int | None = Field(None, ge=16)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.path is None and self.name not in CATALOG and "/" not in self.name:
            raise ValueError(
                f"{self.name!r} is not in the catalog ({', '.join(CATALOG)}); "
                "set `path` to a folder or a hub id"
            )
        return self

    @property
    def can_be_cold(self) -> bool:
        """Whether having no replica is a normal state."""
        return isinstance(self.replicas, Autoscaling) and self.replicas.min_replicas == 0

    @property
    def deployment_name(self) -> str:
        """The name of the model's Ray Serve deployment."""
        return "encoder-" + re.sub(r"[^\w.-]", "--", self.name)


class Limits(_Config):
    """What is refused, and for how long anything may take."""

    max_body_bytes: int = Field(8_000_000, ge=1)
    max_texts: int = Field(2_048, ge=1)
    request_timeout_s: float = Field(60.0, gt=0)
    cold_wait_s: float = Field(4.0, gt=0, lt=5)
    online_max_wait_s: float = Field(10.0, gt=0)
    offline_max_wait_s: float = Field(60.0, gt=0)
    offline_patience_s: float = Field(2.0, gt=0)


class AppArgs(_Config):
    """Everything under ``args`` in ``serve_config.yaml``."""

    models: tuple[ModelConfig, ...] = Field(min_length=1)
    default_model: str | None = None
    truncate: bool = False
    routers: int = Field(1, ge=1)
    router_cpus: float = Field(0.5, ge=0)
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [model.name for model in self.models]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"models named twice: {', '.join(sorted(repeated))}")
        if self.default_model is not None and self.default_model not in names:
            raise ValueError(f"default_model {self.default_model!r} is not among models {names}")
        return self

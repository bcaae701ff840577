"""What `GET /v1/models` tells of models and spaces."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

# every field is in every answer, those with a default too
ALWAYS_WHOLE = ConfigDict(json_schema_serialization_defaults_required=True)


class ModelItem(BaseModel):
    """One model: OpenAI's fields, and what there is to know about it."""

    model_config = ALWAYS_WHOLE

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str
    hugging_face_id: str | None
    state: str
    reason: str | None
    replicas: int
    size: str | None
    dimension: int | None
    dimensions: list[int] | None
    max_tokens: int | None
    languages: list[str] | None
    space_id: str | None
    licence: str | None
    default_instruction: str | None
    device: str | None
    dtype: str | None
    tokens_per_s: int | None
    waiting_tokens: int | None
    token_budget: int | None
    streams: int | None
    gpu_ids: list[str]
    memory_mib: dict[str, int] | None
    shared_space: str | None


class SpaceItem(BaseModel):
    """Models whose vectors compare; ``members`` gives the roles that each of them answers."""

    name: str
    id: str | None
    state: Literal["ready", "unavailable"]
    reason: str | None
    worst_cosine: float | None
    members: dict[str, list[str]]


class ModelList(BaseModel):
    """Every configured model, and the spaces that some of them share."""

    model_config = ALWAYS_WHOLE

    object: Literal["list"] = "list"
    data: list[ModelItem]
    spaces: list[SpaceItem]

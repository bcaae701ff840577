"""What a config says of a model: it replaces or completes what the files and the model card say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from deployments.core.errors import UnsupportedModel
from deployments.core.models.prompts import Templates
from deployments.core.models.spec import Kind, ModelSpec, Pooling, Side


@dataclass(frozen=True)
class Overrides:
    """The fields of a configured model that decide its vectors; None leaves the model's own.

    Prompts, pooling and normalisation are part of the embedding space, so another value is another
    space.
    """

    prompts: Templates | None = None
    max_tokens: int | None = None
    truncation_side: Side | None = None
    pooling: Pooling | None = None
    normalize: bool | None = None
    dimensions: tuple[int, ...] = ()
    trust_remote_code: bool = False


NO_OVERRIDES = Overrides()


def applied(spec: ModelSpec, overrides: Overrides, positions: int | None = None) -> ModelSpec:
    """Returns the description with what the config says.

    ``positions`` are the most tokens for which the network has positions, if that is limited. Raises
    UnsupportedModel, naming the field, if the model cannot do what the config says.
    """
    _check_max_tokens(spec, overrides.max_tokens, positions)
    if spec.kind is Kind.RERANKER:
        _refuse_for_rerankers(spec, overrides)
    if spec.kind is Kind.SPARSE:
        _refuse_for_sparse(spec, overrides)
    stated: dict[str, Any] = {
        "prompts": overrides.prompts and overrides.prompts.over(spec.prompts, spec.name),
        "max_tokens": overrides.max_tokens,
        "truncation_side": overrides.truncation_side,
        "normalize": overrides.normalize,
        "trust_remote_code": overrides.trust_remote_code or None,
    }
    changes = {name: value for name, value in stated.items() if value is not None}
    if overrides.trust_remote_code:
        notice = (
            f"runs code of its own repository, {spec.repo} at {spec.revision} (trust_remote_code)"
        )
        changes["notices"] = (*spec.notices, notice)
    return _with_dimensions(replace(spec, **changes), overrides.dimensions)


def _refuse_for_rerankers(spec: ModelSpec, overrides: Overrides) -> None:
    for field in ("prompts", "pooling", "normalize", "dimensions"):
        if getattr(overrides, field) not in (None, ()):
            raise UnsupportedModel(
                f"{field}: {spec.name} is a reranker, which gives scores and no vectors; remove the field"
            )


def _refuse_for_sparse(spec: ModelSpec, overrides: Overrides) -> None:
    for field in ("pooling", "normalize", "dimensions"):
        if getattr(overrides, field) not in (None, ()):
            raise UnsupportedModel(
                f"{field}: {spec.name} gives sparse vectors, as they are; remove the field"
            )


def _check_max_tokens(spec: ModelSpec, wanted: int | None, positions: int | None) -> None:
    if wanted is not None and positions is not None and wanted > positions:
        raise UnsupportedModel(
            f"max_tokens: {spec.name} has positions for {positions} tokens, so it cannot take {wanted}"
        )


def _with_dimensions(spec: ModelSpec, dimensions: tuple[int, ...]) -> ModelSpec:
    if too_large := [n for n in dimensions if n >= spec.dimension]:
        raise UnsupportedModel(
            f"dimensions: {spec.name} has {spec.dimension}, so it cannot be cut to {too_large}"
        )
    cuts = tuple(sorted({*spec.truncatable_dimensions, *dimensions}))
    return replace(spec, truncatable_dimensions=cuts)

"""How a family of models is written down: what its members share, then a line for each of them."""

from __future__ import annotations

from dataclasses import replace

from deployments.core.models.spec import Activation, Kind, ModelSpec, Pooling, Size

# up to these parameters, in millions
_SMALL, _MEDIUM = 150, 1_000

# name, commit, dimension, parameters in millions
Row = tuple[str, str, int, float]


def shared(
    backbone: str, pooling: Pooling, max_tokens: int, languages: tuple[str, ...], licence: str
) -> ModelSpec:
    """Returns what the members of a family have in common, without names and numbers of their own."""
    return ModelSpec(
        name="",
        repo="",
        revision="",
        backbone=backbone,
        pooling=pooling,
        dimension=0,
        max_tokens=max_tokens,
        languages=languages,
        licence=licence,
    )


def rerankers(
    backbone: str, max_tokens: int, languages: tuple[str, ...], licence: str
) -> ModelSpec:
    """As `shared`, for rerankers, whose dimension is 1."""
    family = shared(backbone, Pooling.CLS, max_tokens, languages, licence)
    return replace(
        family, pooling=None, kind=Kind.RERANKER, activation=Activation.SIGMOID, normalize=False
    )


def table(owner: str, family: ModelSpec, *rows: Row) -> tuple[ModelSpec, ...]:
    """Returns the models of these rows; ``owner`` is the organisation on the hub."""
    return tuple(
        replace(
            family,
            name=name,
            repo=f"{owner}/{name}",
            revision=revision,
            dimension=dimension,
            parameters=parameters,
            size=_size(parameters),
        )
        for name, revision, dimension, parameters in rows
    )


def _size(parameters: float) -> Size:
    if parameters <= _SMALL:
        return Size.SMALL
    return Size.MEDIUM if parameters <= _MEDIUM else Size.LARGE

"""Checks a running service against the scores that the model cards publish."""

from __future__ import annotations

from typing import Any

from cluster.service.http import Service, ServiceError
from cluster.service.tables import table
from deployments.core.models.catalog import by_name_or_repo
from deployments.core.models.spec import PublishedExample, Role
from deployments.core.vectors import normalized

# of a cosine; cards print float32 scores, half precision moves them in the third decimal
_FINE, _COARSE = 0.001, 0.01


def verify(service: Service, wanted: str | None) -> int:
    """Prints published score, ours and the difference; returns 1 when one is beyond tolerance."""
    models = _meant(service.models(), wanted)
    if not models:
        raise ServiceError(f"no model {wanted!r} here; `embedfleet models` shows what there is")
    verdicts = [_verify_one(service, model, required=wanted is not None) for model in models]
    return 0 if all(verdicts) else 1


def _meant(models: list[dict[str, Any]], wanted: str | None) -> list[dict[str, Any]]:
    """Returns all models, those of a name, or the first of a size, which is what the size stands for."""
    if wanted is None:
        return models
    named = [model for model in models if wanted in (model["id"], model["hugging_face_id"])]
    return named or [model for model in models if model["size"] == wanted][:1]


def _verify_one(service: Service, model: dict[str, Any], required: bool) -> bool:
    name = model["id"]
    known = by_name_or_repo(name) or by_name_or_repo(model["hugging_face_id"] or "")
    if model["state"] == "unavailable":
        print(f"{name}: skipped, it is unavailable: {model['reason']}")
        return not required
    if known is None or known.published_example is None:
        print(f"{name}: its card publishes no scores, so there is nothing to compare with")
        return True
    tolerance = _FINE if _is_fine(model) else _COARSE
    rows = _compare(service, name, known.published_example)
    worst = max(abs(difference) for *_, difference in rows)
    good = worst <= tolerance * known.published_example.scale
    print(f"{name} ({model['dtype']}), after {known.published_example.source}")
    print(table(("QUERY", "DOCUMENT", "PUBLISHED", "OURS", "DIFFERENCE"), _printed(rows)))
    print(
        f"{'ok' if good else 'BEYOND TOLERANCE'}: worst difference {worst:.4f}, "
        f"tolerance {tolerance * known.published_example.scale:g}\n"
    )
    return good


def _is_fine(model: dict[str, Any]) -> bool:
    """Whether all is computed in float32; float16 is on a CPU how its weights are stored."""
    return model["dtype"] == "float32" or (model["dtype"], model["device"]) == ("float16", "cpu")


def _compare(
    service: Service, model: str, example: PublishedExample
) -> list[tuple[int, int, float, float, float]]:
    """Returns query, document, published score, our score, difference."""
    queries = service.encode(model, example.queries, Role.QUERY, example.instruction)
    documents = service.encode(model, example.documents, Role.DOCUMENT)
    ours = normalized(queries) @ normalized(documents).T * example.scale
    return [
        (i, j, published, float(ours[i, j]), float(ours[i, j]) - published)
        for i, row in enumerate(example.scores)
        for j, published in enumerate(row)
    ]


def _printed(rows: list[tuple[int, int, float, float, float]]) -> list[tuple[object, ...]]:
    return [(i, j, f"{p:.4f}", f"{o:.4f}", f"{d:+.4f}") for i, j, p, o, d in rows]

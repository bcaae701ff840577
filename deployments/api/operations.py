"""The routes that describe the service itself: models, usage, health, metrics and documentation."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from deployments.api.auth import tenant_of
from deployments.api.backend import Backend
from deployments.api.http import JSON
from deployments.api.responses import ModelItem, ModelList, ModelUsage, UsageReport, dump
from deployments.api.tenants import visible_models, visible_spaces
from deployments.core.errors import ModelNotAllowed, UnknownModel
from deployments.core.routing.policy import PROVIDER
from deployments.core.tenants.limits import TenantLimits

# Swagger UI 5: earlier ones do not read OpenAPI 3.1. Looked up, not imported: that would import FastAPI
_SWAGGER_UI = Path(str(distribution("fastapi-swagger").locate_file("fastapi_swagger/resources")))
ASSETS = tuple(
    f"/docs/{name}" for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
)
_DOCS = """<!doctype html>
<html lang="en">
<title>embedfleet</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>
  SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#ui",
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    persistAuthorization: true,
    tryItOutEnabled: true,
  })
</script>
</html>
"""


async def list_models(request: Request) -> Response:
    """Lists the configured models and spaces, with their states."""
    backend: Backend = request.app.state.backend
    models = visible_models(request, backend.models())
    listing = ModelList(data=models, spaces=visible_spaces(request, backend.spaces()))
    return Response(dump(listing.model_dump()), media_type=JSON)


async def show_model(request: Request) -> Response:
    """Shows one model, by its name or Hugging Face id, or the first model of a size."""
    backend: Backend = request.app.state.backend
    name, models = request.path_params["name"], backend.models()
    item = _named(name, models) or _named(name.removeprefix(PROVIDER), models)
    if item is None:
        raise UnknownModel(f"no model {name!r} here; GET /v1/models lists them", "model")
    if not tenant_of(request).may_use(item.id):
        raise ModelNotAllowed(f"this API key may not use {name!r}", "model")
    return Response(dump(item.model_dump()), media_type=JSON)


def _named(name: str, models: Sequence[ModelItem]) -> ModelItem | None:
    named = [item for item in models if name in (item.id, item.hugging_face_id)]
    of_size = [item for item in models if name == item.size]
    return next(iter(named or of_size), None)


async def show_usage(request: Request) -> Response:
    """Shows what the caller's tenant has used of each model."""
    backend: Backend = request.app.state.backend
    limits: TenantLimits = request.app.state.tenant_limits
    name = tenant_of(request).name
    used = await backend.usage(name, limits.usage.of(name))
    report = UsageReport(
        tenant=name,
        since=int(used.since),
        routers=used.routers,
        complete=used.is_complete,
        data=[
            ModelUsage(model=model or None, **vars(counts))
            for model, counts in sorted(used.models.items())
        ],
    )
    return Response(dump(report.model_dump()), media_type=JSON)


async def health(request: Request) -> Response:
    """Answers 200 as long as this process answers at all."""
    del request
    return Response(dump({"status": "ok"}), media_type=JSON)


async def ready(request: Request) -> Response:
    """Answers 200 once a model is ready, 503 before; a cold model counts, since a request starts it.

    Answers 503 again if the cluster has been lost, whatever the models' last states were.
    """
    backend: Backend = request.app.state.backend
    states = {item.id: item.state for item in backend.models()}
    problem = backend.cluster_problem()
    is_ready = problem is None and any(state in ("ready", "cold") for state in states.values())
    status = "ready" if is_ready else "not ready"
    body = {"status": status, "reason": problem, "models": states}
    return Response(dump(body), 200 if is_ready else 503, media_type=JSON)


async def metrics(request: Request) -> Response:
    """Returns the whole service's metrics in Prometheus' text format."""
    backend: Backend = request.app.state.backend
    return Response(await backend.metrics(), media_type="text/plain; version=0.0.4")


async def openapi(request: Request) -> Response:
    """Returns the OpenAPI description of the API."""
    return Response(request.app.state.description, media_type=JSON)


async def docs(request: Request) -> Response:
    """Shows the description in Swagger UI, whose files are served from here too."""
    del request
    return HTMLResponse(_DOCS)


async def docs_asset(request: Request) -> Response:
    """Returns one of Swagger UI's files."""
    name = request.scope["path"].rpartition("/")[2]  # a path of `ASSETS`
    return FileResponse(_SWAGGER_UI / name, headers={"cache-control": "max-age=3600"})

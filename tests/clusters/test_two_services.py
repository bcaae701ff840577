"""Two services on one machine, each started by `embedfleet serve` with a port and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
import yaml

from testing.hashing import save_model
from testing.processes import kill, replicas
from testing.running import RunningService, config, free_port, serving
from testing.waiting import until

pytestmark = pytest.mark.long
# what `testing` sets, since its services must not even try for the known ports
CHOSEN_BY_THE_SERVICE = dict.fromkeys(
    (
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT",
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT",
        "RAY_SERVE_HAPROXY_METRICS_PORT",
        "RAY_SERVE_HAPROXY_STATS_PORT",
    )
)
WATCHED_S = 12.0


@contextmanager
def service_of(folder, name) -> Iterator[RunningService]:
    """A service whose only model has this name."""
    models = [{"name": name, "path": str(save_model(folder / name))}]
    file, port = folder / f"{name}.yaml", free_port()
    file.write_text(yaml.safe_dump(config(models, 8000, {"import_path": "testing.hashing:build"})))
    arguments = [str(file), "--port", str(port)]
    with serving(arguments, port, [name], CHOSEN_BY_THE_SERVICE) as service:
        yield service


def models_of(service) -> set[str]:
    """Returns the models that the service lists; none while it gives an error or no answer."""
    with suppress(httpx.HTTPError), service.client(timeout_s=3) as http:
        answer = http.get("/v1/models")
        if answer.status_code == 200:
            return {model["id"] for model in answer.json()["data"]}
    return set()


def embeds(service, model) -> int:
    with service.client() as http:
        return http.post("/v1/embeddings", json={"model": model, "input": "a text"}).status_code


def watched(service) -> set[str]:
    """Returns every model that the service lists in the next seconds."""
    seen, end = set(), time.monotonic() + WATCHED_S
    while time.monotonic() < end:
        seen |= models_of(service)
        time.sleep(0.05)
    return seen


def test_each_answers_with_its_own_models_even_without_its_router(tmp_path):
    with service_of(tmp_path, "first") as first, service_of(tmp_path, "second") as second:
        for service, own, other in ((first, "first", "second"), (second, "second", "first")):
            assert models_of(service) == {own}
            assert (embeds(service, own), embeds(service, other)) == (200, 404)
            until(lambda s=service: "ready after" in s.log.read_text(), 10, "it says so")
            assert other not in service.log.read_text()
        for service, own in ((first, "first"), (second, "second")):
            kill(replicas(service, "router"))  # its HAProxy then asks the fallback proxy
            assert watched(service) <= {own}
            until(lambda s=service, o=own: models_of(s) == {o}, 40, "its own router is back")

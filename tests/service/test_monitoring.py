"""A real Prometheus beside the service: each panel of the board has series, and alerts fire."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from testing.running import API_KEY, RunningService, free_port
from testing.waiting import until
from tests.support.monitoring import FOLDER, expressions, panels, rules

PROMETHEUS = shutil.which("prometheus") or ""
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PROMETHEUS, reason="prometheus is not installed"),
]
WINDOW = "30s"  # Ray refreshes its metrics every few seconds
# of a GPU and of a configured space, which this service lacks
ABSENT = {"GPU utilisation", "GPU memory", "Spaces whose models agree"}
FIRES = {
    "EmbedfleetModelUnavailable": {"broken", "e5-small-v2", "linq-embed-mistral"},
    "EmbedfleetReplicasMissing": {"linq-embed-mistral"},
    "EmbedfleetErrors": {None},
    "EmbedfleetRefuses": {"slow"},
    "EmbedfleetSlow": {"slow"},
}


@dataclass(frozen=True)
class Prometheus:
    url: str

    def get(self, path: str, **query: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=query, timeout=10)
        return answer.raise_for_status().json()["data"]

    def series(self, expression: str) -> list[Any]:
        result: list[Any] = self.get("query", query=expression)["result"]
        return result

    def firing(self, alert: str) -> set[str | None]:
        alerts = self.get("alerts")["alerts"]
        ours = [a["labels"] for a in alerts if a["labels"]["alertname"] == alert]
        return {labels.get("model") for labels in ours}


@contextmanager
def prometheus_beside(service: RunningService, folder: Path) -> Iterator[Prometheus]:
    """Runs Prometheus with the shipped config, with shorter times."""
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [urlsplit(service.url).netloc]}]
    job["authorization"] = {"credentials": API_KEY}
    quick = [
        {**rule, "for": "0s", "expr": rule["expr"].replace("[5m]", f"[{WINDOW}]")}
        for rule in rules()
    ]
    alerts = {"groups": [{"name": "embedfleet", "rules": quick}]}
    (folder / "alerts.yaml").write_text(yaml.safe_dump(alerts))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            prometheus = Prometheus(f"http://{address}")
            until(lambda: is_up(prometheus), 30, "Prometheus scrapes the service")
            yield prometheus
        finally:
            process.terminate()
            process.wait(20)


def is_up(prometheus: Prometheus) -> bool:
    with suppress(httpx.HTTPError):
        return bool(prometheus.series("up == 1"))
    return False


def send(service: RunningService, timeout_s: float = 60.0, **body: Any) -> None:
    with service.client(timeout_s) as http, suppress(httpx.TimeoutException):
        http.post("/v1/embeddings", json=body)


def cause_everything(service: RunningService) -> None:
    """Traffic in both lanes, a flood that is refused in part, callers that leave, and errors."""
    slow = {"model": "slow", "truncate": True, "input": ["word " * 200] * 40}
    with ThreadPoolExecutor(32) as pool:
        for timeout_s in (60, 60, 0.5, 0.5, 0.5, *[60] * 20):
            pool.submit(send, service, timeout_s, **slow)
            pool.submit(send, service, timeout_s, priority="offline", **slow)
        for n in range(40):
            pool.submit(send, service, model="hashed", input=f"text {n}")
            pool.submit(send, service, model="broken", input="x")


@contextmanager
def everything_caused(service: RunningService) -> Iterator[None]:
    """Causes everything again and again, since only counters that grow have a rate."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            cause_everything(service)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(repeat)
        try:
            yield
        finally:
            stop.set()
            done.result(120)


@pytest.fixture(scope="module")
def prometheus(service, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    with prometheus_beside(service, folder) as running, everything_caused(service):
        yield running


def test_each_panel_has_series(prometheus):
    def empty() -> set[str]:
        return {
            title
            for title, written in panels().items()
            if not all(map(prometheus.series, expressions(written, "2m")))
        }

    with suppress(AssertionError):
        until(lambda: empty() <= ABSENT, 90)
    assert empty() == ABSENT


@pytest.mark.parametrize("alert", FIRES)
def test_each_alert_fires_in_its_failure(prometheus, alert):
    until(lambda: FIRES[alert] <= prometheus.firing(alert), 90, f"{alert} fires")

"""The folder in which a service keeps batches if its config names none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import GetTimeoutError

from deployments.config.schema import BatchesConfig
from deployments.core.errors import StoreFailed
from deployments.router import batches


@pytest.fixture
def service(monkeypatch, tmp_path):
    """Sets which service this process belongs to."""
    monkeypatch.setattr(batches.ray, "nodes", lambda: [{"Alive": True}])
    monkeypatch.setattr(batches, "session_root", lambda: str(tmp_path / "ray"))

    def of(port: int, app: str = "embedfleet") -> None:
        context = SimpleNamespace(app_name=app)
        monkeypatch.setattr(batches.serve, "get_replica_context", lambda: context)
        monkeypatch.setattr(batches, "http_port", lambda _: port)

    return of


def opened() -> str:
    return str(batches.configured_store(BatchesConfig()))


def test_each_service_has_its_own_and_finds_it_again(service, tmp_path):
    stores = []
    for port, app in ((8000, "embedfleet"), (8001, "embedfleet"), (8000, "../of/others")):
        service(port, app)
        stores.append(opened())
        assert opened() == stores[-1]
    assert len(set(stores)) == 3
    folders = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert {f"local {folder}" for folder in folders} == set(stores)
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in folders)


def test_a_folder_that_others_can_read_is_refused(service):
    service(8000)
    folder = Path(opened().removeprefix("local "))
    folder.chmod(0o755)
    with pytest.raises(StoreFailed, match="not a folder of this user alone"):
        opened()


def test_a_port_that_serve_does_not_tell_is_tried_again(service, monkeypatch):
    service(8000)

    def silent(_):
        raise GetTimeoutError("no answer")

    monkeypatch.setattr(batches, "http_port", silent)
    with pytest.raises(StoreFailed, match="retry later"):
        opened()
    service(8000)
    assert "-8000-embedfleet" in opened()

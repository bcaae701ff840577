"""A service on this machine is reached without the proxy of the environment."""

from __future__ import annotations

import json

import pytest

from cluster.service import listening
from cluster.service.http import Service, ServiceError
from tests.support.local_server import local_server
from tests.unit.cluster.service.test_announcing import Child

DEAD = "http://127.0.0.1:1"  # nobody may listen at such a port
MODELS = json.dumps({"data": [], "spaces": []}).encode()


@pytest.fixture(params=["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def through(request, monkeypatch):
    """Sets the proxy of the environment, in each of the ways that there are."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return lambda proxy: monkeypatch.setenv(request.param, proxy)


def test_a_service_is_seen_to_be_ready(through, capsys):
    through(DEAD)
    with local_server(MODELS) as port:
        listening.announce(Child(20), listening.our_service(f"http://127.0.0.1:{port}"), ())
    output = capsys.readouterr().out
    assert f"ready after 0 s at http://127.0.0.1:{port}" in output
    assert "MODEL" in output


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_its_models_are_read(through, host):
    through(DEAD)
    with local_server(MODELS) as port:
        assert Service(f"http://{host}:{port}").models() == []


def test_a_service_elsewhere_is_asked_through_the_proxy(through):
    with local_server(MODELS) as port:
        through(f"http://127.0.0.1:{port}")
        assert Service("http://elsewhere.test").models() == []
    through(DEAD)
    with pytest.raises(ServiceError, match=r"no service answers at http://elsewhere\.test"):
        Service("http://elsewhere.test").models()

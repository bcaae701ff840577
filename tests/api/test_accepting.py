"""A router accepts many connections in one turn of its event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

import pytest
import uvicorn

from deployments.api.accepting import _startup, accept_many_a_turn

uvloop = pytest.importorskip("uvloop", reason="Ray Serve brings it on Linux and macOS")
CONNECTIONS, TURNS = 64, 6


@pytest.fixture
def copies():
    accept_many_a_turn()
    yield
    uvicorn.Server.startup = _startup


async def accepted_after_some_turns() -> int:
    """Returns how many of 64 connections, opened while the loop was busy, are soon accepted."""

    async def app(scope, receive, send):
        raise AssertionError("nothing is sent")

    server = uvicorn.Server(uvicorn.Config(app, interface="asgi3", lifespan="off"))
    sock = socket.create_server(("127.0.0.1", 0))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([sock])
    with ExitStack() as clients:
        for _ in range(CONNECTIONS):
            clients.enter_context(socket.create_connection(sock.getsockname()))
        for _ in range(TURNS):
            await asyncio.sleep(0)
        accepted = len(server.server_state.connections)
    await server.shutdown([sock])
    return accepted


@pytest.mark.usefixtures("copies")
def test_a_burst_of_connections_is_accepted_in_a_few_turns():
    assert uvloop.run(accepted_after_some_turns()) == CONNECTIONS


def test_libuv_alone_accepts_one_a_turn():
    """When this fails, uvloop accepts many by itself, and deployments/api/accepting.py can go."""
    assert uvloop.run(accepted_after_some_turns()) <= TURNS

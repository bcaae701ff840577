"""Lets a router accept many connections in one turn of its event loop.

libuv, on which uvloop is built, accepts one connection a turn from each listening socket (since libuv
1.45). Under load a turn takes tens of milliseconds, so some hundred new connections wait for more than
ten seconds, and the health check of HAProxy waits behind them. So uvicorn gets copies of the socket:
each is asked once a turn.
"""

from __future__ import annotations

import socket

import uvicorn

_COPIES = 31
_startup = uvicorn.Server.startup


def accept_many_a_turn() -> None:
    """Makes uvicorn listen with copies of each socket that it is given, in this process."""
    uvicorn.Server.startup = _startup_with_copies  # type: ignore[assignment, method-assign]


async def _startup_with_copies(
    server: uvicorn.Server, sockets: list[socket.socket] | None = None
) -> None:
    copies = [sock.dup() for sock in sockets or () for _ in range(_COPIES)]
    await _startup(server, sockets and [*sockets, *copies])

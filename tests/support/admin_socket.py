"""HAProxy's admin socket, as its owner uses it."""

from __future__ import annotations

import socket
from pathlib import Path


def ask(path: Path, command: str) -> str:
    """Returns HAProxy's answer to one command. Raises OSError if the socket cannot be used."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(5)
        admin.connect(str(path))
        admin.sendall(f"{command}\n".encode())
        return b"".join(iter(lambda: admin.recv(65_536), b"")).decode()

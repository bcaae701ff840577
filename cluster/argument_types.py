"""What arguments may be; each raises ArgumentTypeError, which argparse prints."""

from __future__ import annotations

import argparse

PORTS = range(1, 65_536)
DEFAULT_URL = "http://127.0.0.1:8000"


def positive(text: str) -> int:
    """Returns a whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def port(text: str) -> int:
    """Returns a number that a port can have."""
    if (number := positive(text)) not in PORTS:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; the last is {PORTS[-1]}")
    return number

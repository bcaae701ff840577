"""Runs the real service for tests and benchmarks.

All Rays that this process starts share one token, so that this process can connect to them. Ray reads the
token from the environment when it is imported, so import this package before Ray.
"""

import os
import secrets

RAY_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
for _name, _value in RAY_TOKEN.items():
    os.environ.setdefault(_name, _value)

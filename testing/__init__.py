"""Runs the real service for tests and benchmarks.

Every Ray that this process starts asks for one token, so that this process can join it. Ray reads the
token from the environment when it is imported; importing this package first is early enough.
"""

import os
import secrets

RAY_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
for _name, _value in RAY_TOKEN.items():
    os.environ.setdefault(_name, _value)

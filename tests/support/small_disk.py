"""A file system that is soon full, where the tests may mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mounts a tmpfs at a new folder. Skips the test where that is not allowed."""
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Changes the options of a mounted folder."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

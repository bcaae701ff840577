"""Imports modules in a new process, to see which packages they load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def importing(modules: str) -> subprocess.Popen[str]:
    """Starts a Python that imports these comma-separated modules."""
    code = f"import sys, {modules}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def loaded(process: subprocess.Popen[str]) -> set[str]:
    """Waits, and returns the top-level packages that were loaded."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return set(output.split())

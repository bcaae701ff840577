"""``embedfleet env`` prints what a shell can take over."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from cluster.cli import main
from cluster.serving import path_environment


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_a_shell_takes_it_over(capsys):
    assert main(["env"]) == 0
    exports = capsys.readouterr().out
    wanted, _ = path_environment("auto")
    shown = subprocess.run(
        ["sh", "-c", f"{exports}env"], env={}, capture_output=True, text=True, check=True
    )
    found = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    assert found.items() >= wanted.items()
    assert len(wanted) > 2

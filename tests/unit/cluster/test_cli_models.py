"""``embedfleet models --catalog``: the models known by name, without a service."""

from __future__ import annotations

import shlex
import subprocess
import sys

from cluster import cli
from deployments.core.models.catalog import CATALOG


def test_the_catalog_is_listed_without_a_service(capsys):
    assert cli.main(["models", "--catalog", "--url", "http://127.0.0.1:1"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("MODEL ")
    assert [row.split()[0] for row in rows] == list(CATALOG)
    assert sum("query: {text}" in row for row in rows) > 5


def test_a_reader_that_has_ended_is_no_failure_with_a_traceback():
    line = f"{shlex.quote(sys.executable)} -m cluster.cli models --catalog"
    script = f"{line} | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (141, "")

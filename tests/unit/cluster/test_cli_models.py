"""``embedfleet models --catalog``: the models known by name, without a service."""

from __future__ import annotations

from cluster import cli
from deployments.core.models.catalog import CATALOG


def test_the_catalog_is_listed_without_a_service(capsys):
    assert cli.main(["models", "--catalog", "--url", "http://127.0.0.1:1"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("MODEL ")
    assert [row.split()[0] for row in rows] == list(CATALOG)
    assert sum("query: {text}" in row for row in rows) > 5

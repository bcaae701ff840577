"""What is no Python in the packages gets into the wheel."""

from __future__ import annotations

import tomllib

import pytest

from tests.support.documents import ROOT

SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
PACKAGES = ("embedfleet", "deployments", "cluster")


@pytest.mark.parametrize("package", PACKAGES)
def test_each_file_of_a_package_is_installed_with_it(package):
    folder = ROOT / package
    files = {
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    patterns = SETUPTOOLS["package-data"][package]
    installed = {path for pattern in patterns for path in folder.glob(pattern)}
    assert files
    assert sorted(files - installed) == []

"""What happens where a user's own folder holds a package `cluster` or `deployments`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from embedfleet.own_packages import PackageHidden, check_own_packages
from tests.support.documents import ROOT


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, that of a user's project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def python(*args: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *args]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def package(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("")
    return folder / name


@pytest.mark.parametrize("name", ["cluster", "deployments"])
@pytest.mark.parametrize("safe_path", [(), ("-P",)], ids=["python -m", "script"])
def test_a_command_ends_with_one_sentence(folder, name, safe_path):
    """An installed script does not look into the current folder, but its Ray workers do."""
    theirs = package(folder, name)
    run = python(*safe_path, "-m", "embedfleet", "encode", "a.txt", "out", "--model", "small")
    assert run.returncode == 2
    assert f"{theirs} hides embedfleet's own package `{name}`" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_what_runs_on_ray_says_so_when_it_is_imported(folder):
    package(folder, "deployments")
    for use in ("embedfleet.encode_corpus", "embedfleet.data.embed"):
        run = python("-c", f"import embedfleet; {use}")
        assert "PackageHidden" in run.stderr.splitlines()[-1]


def test_the_client_works_beside_them(folder):
    package(folder, "cluster")
    package(folder, "deployments")
    code = "import embedfleet, cluster; embedfleet.Client(); print(cluster.__file__)"
    run = python("-c", code)
    assert run.stdout.strip() == str(folder / "cluster" / "__init__.py"), run.stderr


def test_a_file_hides_a_package_too(folder):
    (folder / "cluster.py").write_text("")
    with pytest.raises(PackageHidden, match=str(folder / "cluster.py")):
        check_own_packages()


def test_a_folder_of_other_files_hides_nothing(folder):
    (folder / "deployments").mkdir()
    (folder / "deployments" / "web.yaml").write_text("")
    check_own_packages()
    assert "all-MiniLM-L6-v2" in python("-m", "embedfleet", "models", "--catalog").stdout


def test_a_folder_of_other_files_hides_an_editable_install(folder, monkeypatch):
    """Its import hook comes after Python's own, which takes any folder of that name."""
    (folder / "deployments").mkdir()
    monkeypatch.setattr(sys, "path", [p for p in sys.path if Path(p or ".").resolve() != ROOT])
    with pytest.raises(PackageHidden, match="deployments"):
        check_own_packages()


def test_a_checkout_beside_the_installed_package_hides_nothing(folder):
    for name in ("embedfleet", "cluster", "deployments"):
        package(folder, name)
    (folder / "embedfleet" / "own_packages.py").write_text("")
    check_own_packages()

"""The floors of the house: a file imports from its own floor or below, and stays short.

What is read here in the source is tried in `test_what_is_loaded.py`.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 250
HTTP = {"starlette", "fastapi", "httpx", "uvicorn", "aiohttp", "requests"}
HOUSE = ("embedding", "api", "", "cluster")  # from the bottom up; "" is deployments/*.py
# floor: what it must not import, as modules or what stands below them
FORBIDDEN = {
    "embedding": {"ray", *HTTP, "pydantic"},
    "api": {"ray", "torch", "transformers", "fastapi", "uvicorn"},
    "": set(),
}


def python_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listed.stdout.split("\n") if listed.returncode == 0 else []
    found = [ROOT / name for name in names if name] or [*ROOT.glob("*/**/*.py"), *ROOT.glob("*.py")]
    return [path for path in found if path.is_file()]


def imports(path: Path) -> Iterator[str]:
    """Yields every imported module, those inside functions too; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its floor"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(module: str) -> str | None:
    """Returns the floor that a module of ours stands on, or None for a module of others."""
    parts = module.split(".")
    if parts[0] == "cluster":
        return "cluster"
    if parts[0] != "deployments":
        return None
    return parts[1] if parts[1:2] and parts[1] in HOUSE else ""


def files_on(floor: str) -> list[Path]:
    return sorted((ROOT / "deployments" / floor).glob("*.py" if floor == "" else "**/*.py"))


def within(module: str, forbidden: set[str]) -> bool:
    return module.split(".", maxsplit=1)[0] in forbidden


@pytest.mark.parametrize("floor", FORBIDDEN)
def test_a_floor_imports_from_itself_or_below(floor):
    allowed = HOUSE[: HOUSE.index(floor) + 1]
    assert files_on(floor)
    for path in files_on(floor):
        for module in imports(path):
            ours = floor_of(module)
            assert ours is None or ours in allowed, f"{path} imports {module}"


@pytest.mark.parametrize("floor", FORBIDDEN)
def test_a_floor_imports_nothing_of_others_that_it_must_not(floor):
    for path in files_on(floor):
        for module in imports(path):
            assert not within(module, FORBIDDEN[floor]), f"{path} imports {module}"


@pytest.mark.parametrize(
    ("module", "floor"),
    [
        ("deployments.embedding.batching.lanes.Lane", "embedding"),
        ("deployments.api", "api"),
        ("deployments.client.EncoderClient", ""),
        ("deployments", ""),
        ("cluster.cli", "cluster"),
        ("clusters", None),
        ("ray.serve", None),
    ],
)
def test_a_module_is_found_on_its_floor(module, floor):
    assert floor_of(module) == floor


def test_imports_inside_functions_are_seen(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("import a.b, c\ndef f():\n    from d import e\n")
    assert list(imports(file)) == ["a.b", "c", "d.e"]


@pytest.mark.parametrize("package", ["deployments", "deployments/api", "deployments/embedding"])
def test_packages_are_empty(package):
    assert (ROOT / package / "__init__.py").read_text() == ""


def test_no_file_is_too_long():
    files = python_files()
    assert Path(__file__) in files
    too_long = {str(f): n for f in files if (n := len(f.read_text().splitlines())) > MOST_LINES}
    assert too_long == {}

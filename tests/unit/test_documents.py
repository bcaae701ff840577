"""The README and its pages speak of what is there: files, fields, models, commands."""

from __future__ import annotations

import re

import pytest
from pydantic_core import PydanticUndefined

from deployments.config import AppArgs, Autoscaling, Limits, ModelConfig, Routing
from deployments.embedding.models.catalog import CATALOG
from tests.documents import DOCUMENTS, PAGES, README, ROOT

# told in words
ELSEWHERE = {"spaces", "replicas", "routing", "limits"}
CONFIGS = [AppArgs, ModelConfig, Limits, Routing, Autoscaling]


def tree_of(page: str) -> str:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return next(block for _, block in blocks if block.startswith("deployments/"))


def fields():
    return [(config, name) for config in CONFIGS for name in config.model_fields]


@pytest.mark.parametrize(("config", "name"), fields(), ids=str)
def test_each_field_of_the_config_is_explained_with_its_default(config, name):
    row = re.search(
        rf"^\| [^|]*`{name}`[^|]*\| ([^|]*) \|", PAGES["configuration.md"], re.MULTILINE
    )
    assert row, f"{name} is not in docs/configuration.md"
    default = config.model_fields[name].default
    if default is PydanticUndefined:
        assert row[1] == "required"
    elif isinstance(default, bool):
        assert row[1] == f"`{str(default).lower()}`"
    elif isinstance(default, int | float) and name not in ELSEWHERE:
        assert str(default).removesuffix(".0") in row[1].split(", ")
    elif isinstance(default, str):
        assert f"`{default}`" in row[1]


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}" for name in PAGES)])
def test_each_link_leads_somewhere(page):
    file = ROOT / page
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", file.read_text()):
        found = (file.parent / target).resolve() if target else file
        assert found.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert anchor in {head.lower().replace(" ", "-") for head in heads}, anchor


@pytest.mark.parametrize("page", [README, PAGES["architecture.md"]], ids=["README", "architecture"])
def test_each_file_of_the_tree_exists(page):
    tree = tree_of(page)
    folders = [ROOT / line.split("/")[0] for line in tree.splitlines() if re.match(r"\w+/", line)]
    files = [*ROOT.iterdir(), *(path for folder in folders for path in folder.rglob("*.*"))]
    names = re.findall(r"[\w/]+\.(?:py|yaml|md)", tree)
    assert names
    for name in names:
        assert any(path.as_posix().endswith(f"/{name}") for path in files), name


@pytest.mark.parametrize("folder", ["deployments", "cluster"])
def test_each_file_stands_in_the_architecture(folder):
    told = set(re.findall(r"[\w]+\.py", tree_of(PAGES["architecture.md"])))
    files = {path.name for path in (ROOT / folder).rglob("*.py")} - {"__init__.py"}
    assert files <= told


def test_each_catalog_model_is_in_the_table():
    for name in CATALOG:
        assert f"| `{name}`" in README or f", `{name}`" in README


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)`?", DOCUMENTS):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

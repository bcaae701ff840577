"""The README and its pages speak of what is there: files, fields, models, commands."""

from __future__ import annotations

import re

import pytest
from pydantic_core import PydanticUndefined

from deployments.config.schema import AppArgs, Autoscaling, Limits, ModelConfig, Routing
from deployments.core.models.catalog import CATALOG
from tests.support.documents import DOCUMENTS, PAGES, README, ROOT

# told in words
ELSEWHERE = {"spaces", "replicas", "routing", "limits"}
CONFIGS = [AppArgs, ModelConfig, Limits, Routing, Autoscaling]


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


def test_each_catalog_model_is_in_the_table():
    for name in CATALOG:
        assert f"| `{name}`" in README or f", `{name}`" in README


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)`?", DOCUMENTS):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

"""What `embedfleet serve` serves if no config is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import cli
from cluster.service import serve as serving
from cluster.service.config_file import read_config
from tests.support.documents import ROOT


@pytest.fixture
def served(monkeypatch) -> list[str]:
    """The configs that would be served."""
    configs: list[str] = []
    monkeypatch.setattr(serving, "serve", lambda config, *_, **__: configs.append(config) or 0)
    return configs


def test_the_config_of_the_folder(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("serve_config.yaml").write_text("")
    assert cli.main(["serve"]) == 0
    assert served == ["serve_config.yaml"]


def test_in_an_empty_folder_the_one_that_is_installed(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve"]) == 0
    [config] = served
    assert read_config(Path(config)).models == ("all-MiniLM-L6-v2",)
    assert Path(config).read_text() == (ROOT / "serve_config.yaml").read_text()


def test_a_config_that_is_named_must_exist(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", "serve_config.yaml"]) == 2
    assert "there is no serve_config.yaml" in capsys.readouterr().err

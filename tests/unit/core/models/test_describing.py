"""A description is made once for the same files, by a child where transformers is not imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.core.errors import ModelUnavailable, UnsupportedModel
from deployments.core.models import describing
from deployments.core.models.describing import described
from deployments.core.models.loading import ModelFiles, find_model
from testing.models.files import edit_json
from testing.models.tiny import save_bert  # imports transformers, so most tests need no child

MODEL = "all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EMBEDFLEET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(script: str) -> list[str]:
    output = subprocess.check_output([sys.executable, "-c", script], text=True, timeout=120)
    return output.splitlines()


DESCRIBES = f"""
import sys
from deployments.core.models.loading import find_model
from deployments.core.models.describing import described
d = described(find_model({MODEL!r}, weights=False))
print(d.fast_tokenizer().tokenize(["Hello world"]).batch.ids.tolist())
print(sorted({{"torch", "transformers"}} & set(sys.modules)))
"""


def test_a_process_without_transformers_leaves_it_to_a_child(cache):
    assert run(DESCRIBES) == ["[101, 7592, 2088, 102]", "[]"]
    assert len(list(cache.rglob("*.json"))) == 1


def test_what_is_on_disk_is_not_made_again(cache, monkeypatch):
    files = find_model(MODEL, weights=False)
    first = described(files)
    monkeypatch.setattr(describing, "_made", lambda _: pytest.fail("made again"))
    assert described(files) == first


@pytest.mark.parametrize("content", ["", "[]", "{", "{}"])
def test_a_file_that_is_broken_is_made_again(cache, content):
    files = find_model(MODEL, weights=False)
    first = described(files)
    [file] = cache.rglob("*.json")
    file.write_text(content)
    assert described(files) == first
    assert json.loads(file.read_text())["tokenizer"] == first.tokenizer


def test_a_cache_that_cannot_be_written_costs_time_only(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EMBEDFLEET_CACHE", str(tmp_path / "file" / "below"))
    assert described(find_model(MODEL, weights=False)).spec.name == MODEL


@pytest.fixture
def children(monkeypatch):
    """The processes that this one starts from now on, as if it had not imported transformers."""
    monkeypatch.delitem(sys.modules, "transformers")
    started, start = [], subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **kw: started.append(start(*args, **kw)) or started[-1]
    )
    return started


def folders(root: Path, count: int) -> list[ModelFiles]:
    """Models of different settings, so that each is described."""
    save_bert(root / "0")
    for number in range(1, count):
        shutil.copytree(root / "0", root / str(number))
        edit_json(root / str(number) / "config.json", its_number=number)
    return [find_model(str(number), str(root / str(number))) for number in range(count)]


def test_models_that_wait_together_are_described_or_refused_by_one_child(tmp_path, children):
    *good, unreadable, odd = folders(tmp_path, 4)
    (unreadable.folder / "tokenizer.json").write_text("{}")
    odd = replace(odd, spec=replace(odd.spec, special_tokens=5))
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(described, files) for files in (unreadable, odd, *good)]
    refused, failed, *descriptions = answers
    with pytest.raises(UnsupportedModel, match="cannot read the tokenizer"):
        refused.result()
    with pytest.raises(ModelUnavailable, match="3 cannot be described: AttributeError"):
        failed.result()
    assert [description.result().spec.name for description in descriptions] == ["0", "1"]
    assert len(children) == 1
    assert children[0].returncode == 0


def test_a_child_that_dies_says_its_last_words_and_the_next_one_serves(
    tmp_path, children, monkeypatch
):
    files = folders(tmp_path, 1)
    monkeypatch.setattr(describing, "__name__", "deployments.core.models.absent")
    with pytest.raises(ModelUnavailable, match=r"0 cannot be described: .*No module named"):
        described(files[0])
    monkeypatch.undo()
    assert describing._made_by_child(files[0])["tokenizer"]


def test_a_child_that_hangs_is_ended(tmp_path, children, monkeypatch):
    files = folders(tmp_path, 1)
    monkeypatch.setattr(describing, "_TIMEOUT_S", 0.01)
    with pytest.raises(ModelUnavailable, match="ended with -9"):
        described(files[0])


def test_other_settings_are_described_anew(tmp_path):
    folder = save_bert(tmp_path / "tiny", cased=True)
    before = described(find_model("own", str(folder)))
    edit_json(folder / "tokenizer_config.json", do_lower_case=True)
    after = described(find_model("own", str(folder)))
    texts = ["How MUCH"]
    first, second = (d.fast_tokenizer().tokenize(texts).batch.ids.tolist() for d in (before, after))
    assert first != second

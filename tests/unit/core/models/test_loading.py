"""From a configured name to a description and a folder: which revision the space is made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deployments.core.errors import UnsupportedModel
from deployments.core.models import loading
from deployments.core.models.catalog import CATALOG
from deployments.core.models.loading import find_model
from deployments.core.models.local_format import content_hash
from deployments.core.models.overrides import Overrides
from deployments.core.models.prompts import Templates
from deployments.core.models.space import space_id
from deployments.core.models.spec import Prompts

KNOWN = CATALOG["e5-small"]
MINILM = CATALOG["all-MiniLM-L6-v2"]
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Every look-up of files, which finds the one folder there is."""
    calls = []

    def find_files(source, revision, package=None, *, weights=True, described=False, code=False):
        calls.append((source, revision, package, weights, described))
        folder = Path(source) if Path(source).is_dir() else tmp_path
        (folder / "model.safetensors").touch()
        return folder

    monkeypatch.setattr(loading, "find_files", find_files)
    return calls


def test_a_catalog_model_comes_from_its_pinned_revision(asked, tmp_path):
    actual = find_model("e5-small")
    assert (actual.spec, actual.folder) == (KNOWN, tmp_path)
    assert asked == [(KNOWN.repo, KNOWN.revision, None, True, True)]


def test_weights_in_a_place_of_the_users_own_are_a_space_of_their_own(asked, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    actual = find_model("e5-small", str(tmp_path))
    assert actual.spec.revision == content_hash(tmp_path)
    assert (actual.spec.name, actual.spec.prompts) == (KNOWN.name, KNOWN.prompts)
    assert space_id(actual.spec) != space_id(KNOWN)


@pytest.mark.parametrize(
    ("folder", "revision", "expected"),
    [("copy", KNOWN.revision, KNOWN.revision), (COMMIT, None, COMMIT), (COMMIT, "v2", "v2")],
)
def test_a_revision_that_is_known_is_believed(asked, tmp_path, folder, revision, expected):
    own = tmp_path / folder
    own.mkdir()
    assert find_model("e5-small", str(own), revision).spec.revision == expected
    assert asked == [(str(own), revision, None, True, True)]


def test_another_revision_of_a_catalog_model_is_fetched_and_named(asked):
    actual = find_model("e5-small", revision=COMMIT)
    assert asked == [(KNOWN.repo, COMMIT, None, True, True)]
    assert actual.spec == replace(KNOWN, revision=COMMIT)


def test_the_catalogs_revision_may_be_spelled_out(asked):
    assert find_model("e5-small", revision=KNOWN.revision).spec == KNOWN


@pytest.mark.parametrize(("weights", "checked"), [(True, 1), (False, 0)])
def test_bundled_weights_are_checked_where_they_are_loaded(asked, monkeypatch, weights, checked):
    hashes = []
    monkeypatch.setattr(loading, "check_sha256", lambda folder, sha256: hashes.append(sha256))
    find_model(MINILM.name, weights=weights)
    assert hashes == [MINILM.weights_sha256] * checked
    assert asked == [(MINILM.repo, MINILM.revision, MINILM.package, weights, True)]


@pytest.mark.parametrize(("path", "source"), [(None, "acme/tiny"), ("acme/other", "acme/other")])
def test_an_unknown_name_is_read_from_its_own_files(asked, monkeypatch, tmp_path, path, source):
    read = []
    monkeypatch.setattr(loading, "read_spec", lambda *args: read.append(args) or KNOWN)
    overrides = Overrides(max_tokens=100)
    actual = find_model("acme/tiny", path, "v1", overrides, weights=False)
    assert actual.spec == replace(KNOWN, repo=source, max_tokens=100)
    assert read == [("acme/tiny", tmp_path, "v1", overrides)]
    assert asked == [(source, "v1", None, False, False)]


@pytest.mark.parametrize(
    ("name", "path"),
    [(KNOWN.repo, None), ("mine", KNOWN.repo), ("intfloat/E5-Small", None), ("E5-SMALL", None)],
)
def test_a_hub_id_of_the_catalogs_is_its_model_whatever_the_name(asked, name, path):
    actual = find_model(name, path)
    assert actual.spec == replace(KNOWN, name=name)
    assert space_id(actual.spec) == space_id(KNOWN)
    assert asked == [(KNOWN.repo, KNOWN.revision, None, True, True)]


@pytest.mark.parametrize(
    ("name", "path"), [("jinaai/jina-embeddings-v3", None), ("mine", "JinaAI/jina-embeddings-v3")]
)
def test_a_model_that_would_give_other_vectors_is_refused_before_anything_is_fetched(
    asked, name, path
):
    with pytest.raises(UnsupportedModel, match="adapter"):
        find_model(name, path)
    assert asked == []


def test_a_copy_under_another_name_has_its_prompts(asked, monkeypatch, tmp_path):
    folder = tmp_path / "my-e5-small"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert", "hidden_size": 384}')
    bare = replace(KNOWN, prompts=Prompts())
    monkeypatch.setattr(loading, "read_spec", lambda *_: bare)
    spec = find_model("mine", str(folder)).spec
    assert spec.prompts == KNOWN.prompts
    assert spec.notices
    settled = find_model("mine", str(folder), overrides=Overrides(Templates(query="{text}"))).spec
    assert settled == replace(bare, prompts=Prompts())


def test_a_folder_of_that_name_is_a_folder(asked, monkeypatch, tmp_path):
    (tmp_path / KNOWN.repo).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "read_spec", lambda *args: KNOWN)
    find_model("mine", KNOWN.repo)
    assert asked == [(KNOWN.repo, None, None, True, False)]


def test_a_folder_that_is_missing_is_not_taken_for_the_catalogs(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "read_spec", lambda *args: KNOWN)
    find_model("mine", KNOWN.name)  # no hub id: `find_files` will say that there is no such folder
    assert asked == [(KNOWN.name, None, None, True, False)]


@pytest.mark.parametrize("where", ["folder", "hub"])
@pytest.mark.parametrize("name", ["acme/tiny", "e5-small"])
def test_weights_that_are_not_safetensors_are_refused(monkeypatch, tmp_path, where, name):
    source = str(tmp_path) if where == "folder" else "acme/other"
    monkeypatch.setattr(loading, "find_files", lambda *_, **__: tmp_path)
    monkeypatch.setattr(loading, "read_spec", lambda *_: KNOWN)
    with pytest.raises(UnsupportedModel, match=f"{source} has neither safetensors nor"):
        find_model(name, source)
    assert find_model(name, source, weights=False).folder == tmp_path

"""Where a model's files come from; the hub is a function that a test replaces."""

from __future__ import annotations

import hashlib
import json

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors as hub

from deployments.embedding.errors import ModelUnavailable
from deployments.embedding.models import weights
from deployments.embedding.models.weights import check_sha256, find_files

RESPONSE = httpx.Response(404, request=httpx.Request("GET", "https://hub.test"))
TOKENIZER = ("config.json", "tokenizer.json")
DESCRIPTION = ("modules.json", "1_Pooling/config.json")
UNREACHABLE = "the hub cannot be reached; put them in the model cache"
REASONS = [
    (hub.GatedRepoError("no", response=RESPONSE), "is gated: accept its licence", "HF_TOKEN"),
    (hub.RepositoryNotFoundError("no", response=RESPONSE), "not on the hub, or is private", "HF_"),
    (hub.RevisionNotFoundError("no", response=RESPONSE), "has no revision abc on the hub", "acme"),
    (hub.HfHubHTTPError("no", response=RESPONSE), UNREACHABLE, "`path`"),
    (hub.LocalEntryNotFoundError("no"), UNREACHABLE, "`path`"),
    (hub.OfflineModeIsEnabled("no"), UNREACHABLE, "`path`"),
    (ConnectionError("no"), UNREACHABLE, "`path`"),
]


class Hub:
    """Stands for `snapshot_download`: a cache, and what a download gives or raises."""

    def __init__(self, monkeypatch, cached=None, downloaded=None):
        self.cached, self.downloaded, self.calls = cached, downloaded, []
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self)

    def __call__(self, repo, revision, allow_patterns, local_files_only=False, **_):
        self.calls.append((repo, revision, tuple(allow_patterns), local_files_only))
        found = self.cached if local_files_only else self.downloaded
        if local_files_only and found is None:
            raise hub.LocalEntryNotFoundError("not here")
        if isinstance(found, Exception):
            raise found
        return str(found)


def folder_with(path, *names):
    (path / "1_Pooling").mkdir(parents=True)
    for name in names:
        (path / name).write_text("{}")
    return path


def test_a_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    hub_ = Hub(monkeypatch)
    assert find_files(str(tmp_path), "abc") == tmp_path
    assert hub_.calls == []


@pytest.mark.parametrize(
    "source", ["tiny", "./tiny", "../tiny", "/no/such/folder", "a/b/c", "acme/ti ny"]
)
def test_what_is_neither_folder_nor_hub_id(monkeypatch, source):
    hub_ = Hub(monkeypatch)
    with pytest.raises(ModelUnavailable, match="neither a folder on this machine nor a hub id"):
        find_files(source, None)
    assert hub_.calls == []


def test_a_package_that_is_installed_is_taken_first(monkeypatch):
    hub_ = Hub(monkeypatch)
    found = find_files("acme/tiny", "abc", package="json")
    assert found.name == "model"
    assert hub_.calls == []


@pytest.mark.parametrize("wanted", [True, False])
def test_without_weights_only_descriptions_are_fetched(tmp_path, monkeypatch, wanted):
    hub_ = Hub(monkeypatch, downloaded=tmp_path)
    assert find_files("acme/tiny", "abc", package="no_such_package", weights=wanted) == tmp_path
    repo, revision, patterns, _ = hub_.calls[-1]
    assert (repo, revision) == ("acme/tiny", "abc")
    assert ("*.safetensors" in patterns) is wanted
    assert "*.json" in patterns
    assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in patterns)


@pytest.mark.parametrize(
    ("files", "wanted", "whole"),
    [
        ([*TOKENIZER, "model.safetensors"], True, True),
        (TOKENIZER, True, False),
        (["model.safetensors"], True, False),
        (["config.json", "model.safetensors"], True, False),
        ([*TOKENIZER, "model-00001-of-00002.safetensors"], True, False),
        (TOKENIZER, False, True),
        (["config.json"], False, False),
        ([], False, False),
    ],
)
def test_the_cache_goes_first_when_it_is_whole(tmp_path, monkeypatch, files, wanted, whole):
    cached = folder_with(tmp_path / "cached", *files)
    hub_ = Hub(monkeypatch, cached, tmp_path / "downloaded")
    found = find_files("acme/tiny", "abc", weights=wanted, described=True)
    assert found.name == ("cached" if whole else "downloaded")
    assert [local for *_, local in hub_.calls] == ([True] if whole else [True, False])


@pytest.mark.parametrize("missing", [None, *DESCRIPTION])
def test_a_model_that_describes_itself_needs_its_description(tmp_path, monkeypatch, missing):
    files = [name for name in (*TOKENIZER, *DESCRIPTION) if name != missing]
    Hub(monkeypatch, folder_with(tmp_path / "cached", *files), tmp_path / "downloaded")
    found = find_files("acme/tiny", "abc", weights=False)
    assert found.name == ("cached" if missing is None else "downloaded")


@pytest.mark.parametrize(("present", "whole"), [(["a", "b"], True), (["a"], False), ([], False)])
def test_all_shards_of_an_interrupted_download_are_wanted(tmp_path, monkeypatch, present, whole):
    shards = [f"{name}.safetensors" for name in present]
    cached = folder_with(tmp_path / "cached", *TOKENIZER, *DESCRIPTION, *shards)
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors"}}
    (cached / "model.safetensors.index.json").write_text(json.dumps(index))
    Hub(monkeypatch, cached, tmp_path / "downloaded")
    assert find_files("acme/tiny", "abc").name == ("cached" if whole else "downloaded")


@pytest.mark.parametrize(("error", "reason", "remedy"), REASONS, ids=lambda v: type(v).__name__)
def test_why_a_download_failed_and_what_to_do(monkeypatch, error, reason, remedy):
    Hub(monkeypatch, downloaded=error)
    with pytest.raises(ModelUnavailable) as refused:
        find_files("acme/tiny", "abc")
    assert reason in refused.value.message
    assert remedy in refused.value.message
    assert "acme/tiny" in refused.value.message


def test_the_hash_of_the_weights(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights" * 999)
    digest = hashlib.sha256(b"weights" * 999).hexdigest()
    check_sha256(tmp_path, digest)
    file.write_bytes(b"weights" * 998)
    with pytest.raises(
        ModelUnavailable, match=f"not {digest}: the file is damaged or not the orig"
    ):
        check_sha256(tmp_path, digest)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors cannot be read"):
        check_sha256(tmp_path, "0" * 64)


def test_patterns_fetch_no_code():
    assert not any("py" in pattern for pattern in (*weights._DESCRIPTION, *weights._WEIGHTS))

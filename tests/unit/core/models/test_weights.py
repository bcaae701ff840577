"""Where a model's files come from; the hub is a function that a test replaces."""

from __future__ import annotations

import errno
import hashlib
import json
import socket

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors as hub
from huggingface_hub.constants import HF_HUB_CACHE

from deployments.core.errors import ModelUnavailable, UnsupportedModel
from deployments.core.models import weights
from deployments.core.models.conversion import with_safetensors
from deployments.core.models.weights import check_sha256, find_files
from testing.running import free_port
from tests.support.local_server import local_server

TOKENIZER = ("config.json", "tokenizer.json")
DESCRIPTION = ("modules.json", "1_Pooling/config.json")
UNREACHABLE = "not on this machine and the hub cannot be reached ({}); put them in the model cache"
NOT_GIVEN = (
    "not on this machine and the hub does not provide them ({}); put them in the model cache"
)
NOT_KEPT = (
    f"cannot be written to the model cache, {HF_HUB_CACHE} ({{}}); let the replicas write there"
)
OLD_TOKEN = "Invalid credentials in Authorization header"


def response(status):
    return httpx.Response(status, request=httpx.Request("GET", "https://hub.test"))


def not_here(cause):
    """What the hub's library makes of an answer, or of none, once nothing is in the cache."""
    error = hub.LocalEntryNotFoundError("please check your internet connection")
    error.__cause__ = cause
    return error


def answer(status, said, kind=hub.HfHubHTTPError):
    return kind(said, response=response(status))


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
NO_ENTRY = PermissionError(errno.EACCES, "Permission denied", "/models/hub")
REASONS = [
    (answer(403, "no", hub.GatedRepoError), "is gated: accept its licence", "HF_TOKEN"),
    (answer(404, "no", hub.RepositoryNotFoundError), "not on the hub, or is private", "HF_TOKEN"),
    (answer(404, "no", hub.RevisionNotFoundError), "has no revision abc on the hub", "acme"),
    (answer(401, OLD_TOKEN), f"denies the replicas access to acme/tiny ({OLD_TOKEN})", "HF_TOKEN"),
    (not_here(answer(403, "no")), "denies the replicas access to acme/tiny (no)", "HF_TOKEN"),
    (answer(403, "shut", hub.DisabledRepoError), NOT_GIVEN.format("shut"), "`path`"),
    (answer(503, "down"), NOT_GIVEN.format("down"), "`path`"),
    (not_here(answer(429, "\n\n429 Too\nMany")), NOT_GIVEN.format("429 Too Many"), "`path`"),
    (not_here(httpx.ConnectError("no route")), UNREACHABLE.format("no route"), "`path`"),
    (not_here(httpx.ConnectTimeout("")), UNREACHABLE.format("ConnectTimeout"), "`path`"),
    (hub.LocalEntryNotFoundError("no"), UNREACHABLE.format("no"), "`path`"),
    (hub.OfflineModeIsEnabled("no"), UNREACHABLE.format("no"), "`path`"),
    (ConnectionError("no"), UNREACHABLE.format("no"), "`path`"),
    (ConnectionResetError(errno.ECONNRESET, "no"), UNREACHABLE.format("[Errno 104] no"), "`path`"),
    (socket.gaierror(-2, "no name"), UNREACHABLE.format("[Errno -2] no name"), "`path`"),
    (NO_SPACE, NOT_KEPT.format(NO_SPACE), "free disk space"),
    (NO_ENTRY, NOT_KEPT.format(NO_ENTRY), "HF_HOME"),
]


class Hub:
    """Stands for `snapshot_download`: a cache, and what a download gives or raises."""

    def __init__(self, monkeypatch, cached=None, downloaded=None):
        self.cached, self.downloaded, self.calls = cached, downloaded, []
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self)
        monkeypatch.setattr(weights, "_reach_hub", lambda repo: None)

    def __call__(self, repo, revision, allow_patterns, local_files_only=False, **_):
        self.calls.append((repo, revision, tuple(allow_patterns), local_files_only))
        actual = self.cached if local_files_only else self.downloaded
        if local_files_only and actual is None:
            raise hub.LocalEntryNotFoundError("not here")
        if isinstance(actual, Exception):
            raise actual
        return str(actual)


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
    actual = find_files("acme/tiny", "abc", package="json")
    assert actual.name == "model"
    assert hub_.calls == []


@pytest.mark.parametrize("wanted", [True, False])
def test_without_weights_only_descriptions_are_fetched(tmp_path, monkeypatch, wanted):
    hub_ = Hub(monkeypatch, downloaded=tmp_path)
    assert find_files("acme/tiny", "abc", package="no_such_package", weights=wanted) == tmp_path
    repo, revision, patterns, _ = hub_.calls[-1]
    assert (repo, revision) == ("acme/tiny", "abc")
    assert ("*.safetensors" in patterns) is wanted
    assert "*.json" in patterns
    assert not any(pattern.endswith((".py", ".pt")) for pattern in patterns)
    assert "pytorch_model.bin" not in patterns


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
    hub_ = Hub(monkeypatch, cached, folder_with(tmp_path / "downloaded", "model.safetensors"))
    actual = find_files("acme/tiny", "abc", weights=wanted, described=True)
    assert actual.name == ("cached" if whole else "downloaded")
    assert [local for *_, local in hub_.calls] == ([True] if whole else [True, False])


@pytest.mark.parametrize("missing", [None, *DESCRIPTION])
def test_a_model_that_describes_itself_needs_its_description(tmp_path, monkeypatch, missing):
    files = [name for name in (*TOKENIZER, *DESCRIPTION) if name != missing]
    Hub(monkeypatch, folder_with(tmp_path / "cached", *files), tmp_path / "downloaded")
    actual = find_files("acme/tiny", "abc", weights=False)
    assert actual.name == ("cached" if missing is None else "downloaded")


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
    assert "\n" not in refused.value.message


def test_a_hub_that_cannot_be_reached_is_not_tried_again_and_again(monkeypatch, caplog):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    reach = weights._reach_hub
    hub_ = Hub(monkeypatch)
    monkeypatch.setattr(weights, "_reach_hub", reach)
    with pytest.raises(ModelUnavailable, match=r"acme/tiny .* the hub cannot be reached"):
        find_files("acme/tiny", "abc")
    assert all(local for *_, local in hub_.calls)
    assert caplog.text == ""


REVISION = "a" * 40
VOCABULARY_ONLY = ("config.json", "modules.json", "1_Pooling/config.json", "vocab.txt")
IN_FOLDERS = ("modules.json", "0_Model/config.json", "0_Model/tokenizer.json")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty model cache of the hub's library, which may not use the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path / "models--acme--tiny" / "snapshots" / REVISION


@pytest.mark.parametrize(
    "files",
    [
        (*VOCABULARY_ONLY, "model.safetensors"),
        (*VOCABULARY_ONLY, "pytorch_model.bin"),
        (*IN_FOLDERS, "0_Model/model.safetensors"),
    ],
)
def test_a_cached_model_without_some_usual_files_needs_no_hub(offline, files):
    for name in files:
        (offline / name).parent.mkdir(parents=True, exist_ok=True)
        (offline / name).write_text("{}")
    for wanted in (True, False):
        assert find_files("acme/tiny", REVISION, weights=wanted) == offline


@pytest.mark.parametrize(
    "files",
    [
        VOCABULARY_ONLY,
        (*VOCABULARY_ONLY, "model-00001-of-00002.safetensors"),
        (*VOCABULARY_ONLY[:3], "model.safetensors"),
    ],
)
def test_a_cached_model_without_weights_or_vocabulary_needs_the_hub(offline, files):
    for name in files:
        (offline / name).parent.mkdir(parents=True, exist_ok=True)
        (offline / name).write_text("{}")
    with pytest.raises(ModelUnavailable, match=r"acme/tiny .* the hub cannot be reached"):
        find_files("acme/tiny", REVISION)


def test_a_hub_that_answers_anything_is_reached(monkeypatch):
    with local_server(b"", 404) as port:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        weights._reach_hub("acme/tiny")


def test_what_the_hub_says_at_length_is_cut(monkeypatch):
    Hub(monkeypatch, downloaded=answer(500, "oh " * 999))
    with pytest.raises(ModelUnavailable, match="oh …"):
        find_files("acme/tiny", "abc")


@pytest.mark.parametrize("names", [[], ["model.bin"], ["model.safetensors.index.json"]])
def test_a_folder_without_weights(tmp_path, names):
    folder_with(tmp_path, *names)
    (tmp_path / "1_Pooling" / "model.safetensors").touch()
    with pytest.raises(
        UnsupportedModel, match=r"acme/tiny has neither safetensors .*safe_serializ"
    ):
        with_safetensors(tmp_path, "acme/tiny")
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert with_safetensors(tmp_path, "acme/tiny") == tmp_path


@pytest.mark.parametrize("trusted", [True, False])
def test_code_is_fetched_only_if_it_is_trusted(tmp_path, monkeypatch, trusted):
    hub_ = Hub(monkeypatch, downloaded=folder_with(tmp_path / "hub", "model.safetensors"))
    find_files("acme/tiny", "abc", code=trusted)
    assert ("*.py" in hub_.calls[-1][2]) is trusted


@pytest.mark.parametrize(("weights", "downloads"), [("model.safetensors", 1), (None, 2)])
def test_the_older_format_is_fetched_only_if_there_are_no_safetensors(
    tmp_path, monkeypatch, weights, downloads
):
    folder = folder_with(tmp_path / "hub", *TOKENIZER, *([weights] if weights else []))
    hub_ = Hub(monkeypatch, downloaded=folder)
    assert find_files("acme/tiny", "abc") == folder
    fetched = [patterns for *_, patterns, local in hub_.calls if not local]
    assert len(fetched) == downloads
    assert "pytorch_model*.bin" not in fetched[0]
    assert ("pytorch_model*.bin" in fetched[-1]) == (downloads == 2)


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        (["pytorch_model.bin"], True),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"], True),
        (["pytorch_model-00001-of-00002.bin"], False),
    ],
)
def test_the_cache_may_hold_the_older_format(tmp_path, monkeypatch, files, whole):
    cached = folder_with(tmp_path / "cached", *TOKENIZER, *DESCRIPTION, *files)
    if len(files) == 2 or not whole:
        shards = {str(part): f"pytorch_model-0000{part}-of-00002.bin" for part in (1, 2)}
        (cached / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    Hub(monkeypatch, cached, folder_with(tmp_path / "downloaded", "model.safetensors"))
    assert find_files("acme/tiny", "abc").name == ("cached" if whole else "downloaded")


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
    patterns = (*weights._DESCRIPTION, *weights._WEIGHTS)
    assert not any(pattern.endswith((".py", ".p*", "*")) for pattern in patterns)

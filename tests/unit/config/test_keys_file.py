"""The file of tenants: what it may hold, and which field an error names."""

from __future__ import annotations

import hashlib

import pytest

from deployments.config.keys_file import KeyEntry, read_tenants
from deployments.core.lane import Lane
from deployments.core.tenants.tenant import Tenant
from tests.support.documents import PAGES, code_blocks

MODELS = ["small", "large"]
KEY = "a-key"


def sha256(key):
    return hashlib.sha256(key.encode()).hexdigest()


A, B = sha256("a"), sha256("b")
FULL = f"""
keys:
  - name: search
    sha256: {A}
    weight: 4
  - name: nightly.jobs
    sha256:
      - {B.upper()}
      - {sha256("c")}
    models: [small]
    highest_priority: offline
    concurrent_requests: 8
    tokens_per_minute: {{offline: 600000}}
"""


@pytest.fixture
def tenants_of(tmp_path):
    def read(text):
        (tmp_path / "keys.yaml").write_text(text)
        return read_tenants(tmp_path / "keys.yaml", MODELS)

    return read


def test_each_key_has_its_tenant(tenants_of):
    tenants = tenants_of(FULL)
    models, limits = frozenset({"small"}), {Lane.OFFLINE: 600_000}
    nightly = Tenant("nightly.jobs", models, Lane.OFFLINE, limits, 8)
    assert tenants == {
        hashlib.sha256(b"a").digest(): Tenant("search", weight=4.0),
        hashlib.sha256(b"b").digest(): nightly,
        hashlib.sha256(b"c").digest(): nightly,
    }


def test_json_and_a_byte_order_mark(tenants_of):
    assert len(tenants_of(f'\ufeff{{"keys": [{{"name": "a", "sha256": "{A}"}}]}}')) == 1


ONE = f"{{name: a, sha256: {A}}}"
WRONG = {
    f"keys: [{{name: a, sha256: {A}, weight: 0}}]": "keys.0.weight",
    f"keys: [{{name: a, sha256: {A}, weight: .nan}}]": "keys.0.weight",
    f"keys: [{{name: a, sha256: {A}, concurrent_requests: 0}}]": "keys.0.concurrent_requests",
    f"keys: [{{name: a, sha256: {A}, tokens_per_minute: 5}}]": "keys.0.tokens_per_minute",
    f"keys: [{{name: a, sha256: {A}, tokens_per_minute: {{on: 5}}}}]": "keys.0.tokens_per_minute",
    f"keys: [{{name: a, sha256: {A}, model: [small]}}]": "did you mean `models`",
    "": "keys",
    "[]": "keys",
    "keys: []": "keys: must not be empty",
    "key: []": "did you mean `keys`",
    f"keys: [{{name: a, sha256: {A}, models: [medium]}}]": "keys.0.models: 'medium'",
    f"keys: [{{name: a, sha256: {A}, models: []}}]": "keys.0.models",
    f"keys: [{{name: a, sha256: {A}, highest_priority: high}}]": "keys.0.highest_priority",
    f"keys: [{{name: ä, sha256: {A}}}]": "keys.0.name",
    f"keys: [{{name: 'a b', sha256: {A}}}]": "keys.0.name",
    f"keys: [{{name: default, sha256: {A}}}]": "keys.0.name: 'default'",
    f"keys: [{{sha256: {A}}}]": "keys.0.name: is missing",
    "keys: [{name: a}]": "keys.0.sha256: is missing",
    "keys: [{name: a, sha256: []}]": "keys.0.sha256: must be the key's SHA-256",
    f"keys: [{ONE}, {{name: a, sha256: {B}}}]": "keys.1.name: 'a' is the name of keys.0 too",
    f"keys: [{ONE}, {{name: b, sha256: {A}}}]": "keys.1.sha256: holds a key that 'a' has too",
    f"keys: [{{name: a, sha256: [{A}, {A}]}}]": "keys.0.sha256: holds a key that 'a' has too",
    "keys:\n  - name: a\n    sha256: {": "line 3: is not YAML",
    "keys: \x01": "characters that YAML does not allow",
}


@pytest.mark.parametrize("text", WRONG)
def test_an_error_names_the_file_and_the_field_or_line(tenants_of, text):
    with pytest.raises(ValueError, match=r"/keys\.yaml: ") as refused:
        tenants_of(text)
    assert WRONG[text] in str(refused.value)


@pytest.mark.parametrize(
    "text", ["sha256: {key}", "sha256: [{key}]", 'sha256: ["{key}', "{key}: 1"]
)
def test_no_error_repeats_a_key_that_was_put_in_place_of_its_hash(tenants_of, text):
    with pytest.raises(ValueError, match="keys") as refused:
        tenants_of("keys:\n  - name: a\n    " + text.format(key=KEY))
    assert "sha256" in text or KEY in str(refused.value)  # an unknown field is named
    assert "sha256" not in text or KEY not in str(refused.value)


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "keys").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="/keys: "):
        read_tenants(tmp_path / "keys", MODELS)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tenants(tmp_path / "keys", MODELS)


def test_the_documented_file(tenants_of):
    (example,) = [block for block in code_blocks("yaml") if block.startswith("keys:")]
    for digest in ("9f86…0a08", "60303…2f7c"):
        assert digest in example
        example = example.replace(digest, sha256(digest))
    known = example.replace("all-MiniLM-L6-v2", "small")
    assert [tenant.name for tenant in tenants_of(known).values()] == ["search", "nightly"]


@pytest.mark.parametrize("field", [*KeyEntry.model_fields])
def test_each_field_is_documented(field):
    assert f"| `{field}` |" in PAGES["tenants.md"]

"""What `embedfleet models` prints."""

from __future__ import annotations

import pytest

from cluster.service.tables import models_table, spaces_table

MODEL = {
    "id": "m",
    "size": None,
    "state": "ready",
    "replicas": 2,
    "dimension": 8,
    "max_tokens": 12,
    "languages": None,
    "space_id": "aaaa",
    "device": None,
    "dtype": None,
    "reason": None,
}
SPACE = {
    "name": "pair",
    "id": "bbbb",
    "state": "ready",
    "reason": None,
    "worst_cosine": 0.97,
    "members": {"m": ["query"]},
}


@pytest.mark.parametrize(("state", "replicas"), [("ready", "2"), ("unavailable", "-")])
def test_an_unavailable_model_has_no_replicas_that_answer(state, replicas):
    header, row = models_table([{**MODEL, "state": state}]).splitlines()
    assert dict(zip(header.split(), row.split(), strict=False))["REPLICAS"] == replicas


@pytest.mark.parametrize(("identity", "is_explained"), [("bbbb", True), (None, False)])
def test_a_second_id_is_explained(identity, is_explained):
    printed = spaces_table([{**SPACE, "id": identity}])
    assert ("the space of one model alone" in printed) is is_explained

"""The states of a batch, and ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.batches.states import (
    BATCH_PREFIX,
    FILE_PREFIX,
    Batch,
    Counts,
    Problem,
    Rights,
    Status,
    derived_id,
    made_at,
    new_id,
)
from deployments.core.lane import Lane
from deployments.core.tenants.tenant import ANYONE, Tenant

WAYS = {
    (Status.IN_PROGRESS, Status.FINALIZING, Status.COMPLETED),
    (Status.IN_PROGRESS, Status.CANCELLING, Status.CANCELLED),
    (Status.CANCELLING, Status.CANCELLED),
    (Status.IN_PROGRESS, Status.EXPIRED),
    (Status.EXPIRED,),
    (Status.FAILED,),
}


def a_batch(**changes: object) -> Batch:
    values = {
        "id": new_id(BATCH_PREFIX, 1_000.0),
        "owner": "mine",
        "input_file_id": new_id(FILE_PREFIX, 900.0),
        "endpoint": "/v1/embeddings",
        "created_at": 1_000,
        "expires_at": 87_400,
        "output_ttl_s": 3_600,
        **changes,
    }
    return Batch(**values)


@pytest.mark.parametrize("way", WAYS)
def test_the_ways_through_the_states(way):
    batch = a_batch()
    for seconds, status in enumerate(way):
        assert not batch.is_final
        batch = batch.moved(status, 1_001.9 + seconds)
    assert batch.is_final
    assert not batch.may_be_cancelled
    assert batch.times == {status.value: 1_001 + n for n, status in enumerate(way)}


@given(st.lists(st.sampled_from(Status), max_size=6))
def test_no_way_leaves_a_final_state_or_returns(way):
    batch, passed = a_batch(), [Status.VALIDATING]
    for status in way:
        try:
            batch = batch.moved(status, 1_001)
        except ValueError:
            continue
        assert status not in passed
        passed.append(status)
    final = {Status.COMPLETED, Status.FAILED, Status.EXPIRED, Status.CANCELLED}
    assert not final & set(passed[:-1])
    assert batch.is_final == (passed[-1] in final)


def test_a_batch_survives_json():
    batch = a_batch(
        rights=Rights("team", ("a", "b"), 9, 2.5),
        metadata={"a": "b"},
        request_counts=Counts(3, 1, 1),
        problems=(Problem("empty_file", "the input file has no lines"),),
    ).moved(Status.IN_PROGRESS, 1_002)
    assert Batch.from_dict(batch.as_dict()) == batch


@pytest.mark.parametrize(
    "tenant",
    [
        ANYONE,
        Tenant("a", frozenset({"m", "n"})),
        Tenant("b", None, Lane.ONLINE, {Lane.ONLINE: 5, Lane.OFFLINE: 7}, 3, 2.5),
    ],
)
def test_a_batch_has_the_offline_rights_of_its_tenant(tenant):
    kept = Rights.of(tenant).tenant
    assert (kept.name, kept.models) == (tenant.name, tenant.models)
    assert kept.share == tenant.share
    assert kept.highest_priority is Lane.OFFLINE
    offline = {k: v for k, v in tenant.tokens_per_minute.items() if k is Lane.OFFLINE}
    assert kept.tokens_per_minute == offline


def test_ids_sort_by_time_and_cannot_be_guessed():
    ids = [new_id(FILE_PREFIX, now) for now in (0, 1.5, 1_700_000_000, 1_700_000_000.001, 1.7e10)]
    assert ids == sorted(ids)
    assert len({len(i) for i in ids}) == 1
    assert made_at(ids[3], FILE_PREFIX) == 1_700_000_000.001
    assert new_id(FILE_PREFIX, 5) != new_id(FILE_PREFIX, 5)


def test_a_derived_id_is_the_same_on_every_attempt():
    batch_id = new_id(BATCH_PREFIX, 1_700_000_000)
    output, errors = (derived_id(FILE_PREFIX, batch_id, BATCH_PREFIX, w) for w in ("a", "b"))
    assert output == derived_id(FILE_PREFIX, batch_id, BATCH_PREFIX, "a") != errors
    assert made_at(output, FILE_PREFIX) == 1_700_000_000

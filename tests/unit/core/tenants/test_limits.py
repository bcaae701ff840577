"""A router's account of its tenants: what is admitted, what is left, and what the others have taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.core.errors import RateLimited
from deployments.core.lane import Lane
from deployments.core.tenants.limits import Quota, TenantLimits
from deployments.core.tenants.tenant import ANYONE, Tenant

ONLINE, OFFLINE = Lane.ONLINE, Lane.OFFLINE
TENANT = Tenant("search", tokens_per_minute={ONLINE: 6_000, OFFLINE: 60_000}, concurrent_requests=3)
OTHER = replace(TENANT, name="other")


@pytest.fixture
def limits():
    return TenantLimits()


def refusal(limits, tenant, lane, tokens, now):
    with pytest.raises(RateLimited) as refused:
        limits.charge(tenant, lane, tokens, now)
    return refused.value


def test_a_tenant_without_limits_is_never_refused(limits):
    for _ in range(1_000):
        limits.enter(ANYONE)
        limits.charge(ANYONE, ONLINE, 10**9, 0.0)
    assert limits.tokens(ANYONE, ONLINE, 0.0) is None
    assert limits.requests(ANYONE) is None
    assert limits.taken() == {}


def test_each_lane_of_each_tenant_has_its_own_limit(limits):
    limits.charge(TENANT, ONLINE, 300, 0.0)
    assert refusal(limits, TENANT, ONLINE, 100, 0.0).retry_after_s == pytest.approx(1.0)
    limits.charge(TENANT, OFFLINE, 100, 0.0)
    limits.charge(OTHER, ONLINE, 100, 0.0)


def test_a_request_of_more_than_a_minute_can_never_be_answered(limits):
    assert refusal(limits, TENANT, ONLINE, 6_001, 0.0).retry_after_s is None
    limits.charge(TENANT, ONLINE, 6_000, 0.0)


def test_what_is_left(limits):
    limits.charge(TENANT, ONLINE, 200, 0.0)
    assert limits.tokens(TENANT, ONLINE, 0.0) == Quota(6_000, 100, pytest.approx(2.0))
    limits.correct(TENANT, ONLINE, -200, 0.0)
    assert limits.tokens(TENANT, ONLINE, 0.0) == Quota(6_000, 300, 0.0)


def test_requests_in_progress(limits):
    for left in (2, 1, 0):
        limits.enter(TENANT)
        assert limits.requests(TENANT) == Quota(3, left, 0.0 if left else 1.0)
    with pytest.raises(RateLimited) as refused:
        limits.enter(TENANT)
    assert refused.value.retry_after_s == 1.0
    limits.enter(OTHER)
    limits.leave(TENANT)
    limits.enter(TENANT)


def test_another_limit_in_the_file_holds_from_then_on(limits):
    limits.charge(TENANT, ONLINE, 300, 0.0)
    wider = replace(TENANT, tokens_per_minute={ONLINE: 60_000}, concurrent_requests=None)
    limits.charge(wider, ONLINE, 3_000, 0.0)
    refusal(limits, wider, ONLINE, 100, 0.0)
    for _ in range(10):
        limits.enter(wider)


def test_what_other_routers_have_taken_counts(limits):
    limits.charge(TENANT, ONLINE, 100, 0.0)
    assert limits.taken() == {"search/online": 100}
    limits.exchange({"b": {"search/online": 10**6}}, 0.0)  # long past
    assert limits.tokens(TENANT, ONLINE, 0.0).remaining == 200
    limits.exchange({"b": {"search/online": 10**6 + 150}}, 0.0)
    assert limits.tokens(TENANT, ONLINE, 0.0).remaining == 50
    limits.exchange({"b": {}}, 0.0)
    limits.exchange({"b": {"search/online": 50}}, 0.0)  # it has started anew
    assert limits.tokens(TENANT, ONLINE, 0.0).remaining == 0


def test_routers_share_the_requests_in_progress(limits):
    limits.exchange({"b": {}}, 0.0)
    limits.enter(TENANT)
    limits.enter(TENANT)  # half of three, rounded up
    with pytest.raises(RateLimited):
        limits.enter(TENANT)
    limits.exchange({}, 0.0)
    limits.enter(TENANT)

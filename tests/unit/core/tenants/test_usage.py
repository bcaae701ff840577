"""Counts of requests, tokens and refusals by tenant and model."""

from __future__ import annotations

from deployments.core.tenants.usage import Counts, TenantUsage, Usage, combined


def test_counts_add_up_by_tenant_and_model():
    usage = Usage(since=5.0)
    for counts in (Counts(1, 10), Counts(0, 5), Counts(refusals=1)):
        usage.add("a", "m", counts)
    usage.add("a", "n", Counts(1, 1))
    usage.add("b", "m", Counts(1, 2))
    assert usage.of("a") == TenantUsage(5.0, {"m": Counts(1, 15, 1), "n": Counts(1, 1)})
    assert usage.of("b") == TenantUsage(5.0, {"m": Counts(1, 2)})
    assert usage.of("nobody") == TenantUsage(5.0, {})


def test_what_was_returned_does_not_change_afterwards():
    usage = Usage()
    usage.add("a", "m", Counts(1, 1))
    before = usage.of("a")
    usage.add("a", "m", Counts(1, 1))
    assert before.models["m"] == Counts(1, 1)


def test_news_are_told_once():
    usage = Usage()
    usage.add("a", "m", Counts(1, 10))
    usage.add("a", "m", Counts(1, 10))
    assert usage.take_news() == {("a", "m"): Counts(2, 20)}
    assert usage.take_news() == {}
    usage.add("a", "m", Counts(refusals=1))
    assert usage.take_news() == {("a", "m"): Counts(refusals=1)}
    assert usage.of("a").models["m"] == Counts(2, 20, 1)


def test_the_usage_of_several_routers():
    one = TenantUsage(7.0, {"m": Counts(1, 2, 3)})
    other = TenantUsage(5.0, {"m": Counts(1, 1, 1), "n": Counts(4, 4, 4)})
    assert combined([one, other], is_complete=False) == TenantUsage(
        5.0, {"m": Counts(2, 3, 4), "n": Counts(4, 4, 4)}, 2, False
    )
    assert one.models["m"] == Counts(1, 2, 3)

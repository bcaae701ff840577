"""What a tenant has used at all routers and in batches, some of which may not answer."""

from __future__ import annotations

import asyncio

import pytest

from deployments.core.tenants.usage import Counts, TenantUsage
from deployments.router import all_routers
from deployments.router.all_routers import AllRouters

OWN = TenantUsage(5.0, {"m": Counts(1, 10)})
OTHER = TenantUsage(3.0, {"m": Counts(2, 20)})


class Handle:
    """Stands for Serve's: answers with ``answers``, or never."""

    def __init__(self, answers):
        self.answers = answers

    def broadcast(self, method, tenant):
        assert (method, tenant) == ("own_usage", "search")
        return self

    async def results_async(self, return_exceptions):
        assert return_exceptions
        if self.answers is None:
            await asyncio.Event().wait()
        return self.answers


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([OTHER, OWN], TenantUsage(3.0, {"m": Counts(3, 30)}, 2, True)),
        ([RuntimeError("it died"), OWN], TenantUsage(5.0, {"m": Counts(1, 10)}, 1, False)),
        ([], TenantUsage(5.0, {"m": Counts(1, 10)}, 1, False)),
        (None, TenantUsage(5.0, {"m": Counts(1, 10)}, 1, False)),
    ],
)
async def test_the_usage_says_how_many_routers_it_is_of(monkeypatch, answers, expected):
    monkeypatch.setattr(all_routers, "_TIMEOUT_S", 0.05)
    routers = AllRouters(2)
    vars(routers)["_handle"] = Handle(answers)
    assert await routers.usage("search", OWN) == expected


class Runner:
    """Stands for the handle of the runner of batches."""

    def __init__(self, answer: TenantUsage | None) -> None:
        self.own_usage, self._answer = self, answer

    async def remote(self, tenant: str) -> TenantUsage:
        assert tenant == "search"
        if self._answer is None:
            await asyncio.Event().wait()
        return self._answer


@pytest.mark.parametrize(
    ("of_batches", "expected"),
    [
        (OTHER, TenantUsage(3.0, {"m": Counts(3, 30)}, 1, True)),
        (None, TenantUsage(5.0, {"m": Counts(1, 10)}, 1, False)),
    ],
)
async def test_what_batches_use_is_part_of_the_usage(monkeypatch, of_batches, expected):
    monkeypatch.setattr(all_routers, "_TIMEOUT_S", 0.05)
    assert await AllRouters(1, Runner(of_batches)).usage("search", OWN) == expected

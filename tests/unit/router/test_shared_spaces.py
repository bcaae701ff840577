"""Members of a space are compared before their vectors may be mixed."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.config.schema import Routing
from deployments.core.errors import ModelUnavailable
from deployments.core.models.spec import Role
from deployments.core.request import Embeddings
from deployments.core.routing.space_matching import AGREEMENT_TEXTS
from deployments.router.shared_spaces import SharedSpaces
from deployments.wire.status import ModelState, ModelStatus

RANDOM = np.random.default_rng(0).standard_normal((len(AGREEMENT_TEXTS), 64)).astype(np.float32)
OTHER = np.random.default_rng(1).standard_normal((len(AGREEMENT_TEXTS), 64)).astype(np.float32)


class Models:
    """Two models, ``a`` and ``b``, and what they answer."""

    def __init__(self, b):
        self.vectors = {"a": RANDOM, "b": b}
        self.states = {"a": ModelState.READY, "b": ModelState.READY}
        self.spaces = {"a": "space-of-a", "b": "space-of-b"}
        self.encoded = []
        self.failing = None

    async def encode(self, model, request):
        self.encoded.append((model, request.role))
        if self.failing:
            raise self.failing
        return Embeddings(self.vectors[model], model, self.spaces[model], 1)

    def status(self, model):
        return ModelStatus(self.states[model])


def spaces_of(models, roles=("query", "document"), floor=0.9):
    members = [{"model": "a"}, {"model": "b", "roles": list(roles)}]
    config = {"spaces": [{"name": "pair", "members": members, "floor": floor}]}
    result = SharedSpaces(models.encode, models.status)
    result.configure(Routing.model_validate(config))
    return result


async def test_members_that_agree_share_a_space():
    near = RANDOM + 0.01 * OTHER
    spaces = spaces_of(Models(near))
    assert "not been compared yet" in spaces.of("a").problem
    await spaces.compare()
    shared = spaces.of("a")
    assert shared.problem is None
    assert (shared.name, shared.id) == ("pair", spaces.of("b").id)
    [verdict] = spaces.verdicts().values()
    assert 0.999 < verdict.worst_cosine < 1


async def test_members_that_disagree_are_refused_with_the_numbers():
    spaces = spaces_of(Models(OTHER))
    await spaces.compare()
    problem = spaces.of("b").problem
    assert "members disagree" in problem
    assert "0.9" in problem
    [verdict] = spaces.verdicts().values()
    assert abs(verdict.worst_cosine) < 0.6


async def test_one_text_that_differs_is_enough():
    one_off = RANDOM.copy()
    one_off[3] *= -1
    spaces = spaces_of(Models(one_off))
    await spaces.compare()
    assert "-1.0000" in spaces.of("a").problem


async def test_other_dimensions_are_refused():
    spaces = spaces_of(Models(RANDOM[:, :32]))
    await spaces.compare()
    assert "{'a': 64, 'b': 32}" in spaces.of("a").problem


async def test_the_floor_comes_from_the_config():
    spaces = spaces_of(Models(RANDOM + OTHER), floor=0.1)
    await spaces.compare()
    assert spaces.of("a").problem is None


@pytest.mark.parametrize("state", [ModelState.COLD, ModelState.STARTING, ModelState.UNAVAILABLE])
async def test_the_comparison_waits_for_every_member(state):
    models = Models(RANDOM)
    models.states["b"] = state
    spaces = spaces_of(models)
    await spaces.compare()
    assert f"b is {state}" in spaces.of("a").problem
    assert models.encoded == []
    models.states["b"] = ModelState.READY
    await spaces.compare()
    assert spaces.of("a").problem is None


async def test_a_member_that_fails_is_tried_again():
    models = Models(RANDOM)
    models.failing = ModelUnavailable("its replica died")
    spaces = spaces_of(models)
    await spaces.compare()
    assert "its replica died" in spaces.of("a").problem
    models.failing = None
    await spaces.compare()
    assert spaces.of("a").problem is None


async def test_a_verdict_is_kept_when_the_rest_of_the_routing_changes():
    models = Models(RANDOM)
    spaces = spaces_of(models)
    await spaces.compare()
    count = len(models.encoded)
    await spaces.compare()
    spaces.configure(Routing(aim="best", spaces=tuple(spaces.verdicts())))
    await spaces.compare()
    assert len(models.encoded) == count
    assert spaces.of("a").problem is None
    spaces.configure(Routing())
    assert spaces.of("a") is None


async def test_each_role_is_compared_and_stays_with_its_member():
    models = Models(RANDOM)
    spaces = spaces_of(models, roles=["query"])
    await spaces.compare()
    assert {role for _, role in models.encoded} == set(Role)
    assert spaces.of("b").roles == {Role.QUERY}
    assert spaces.of("stranger") is None


async def test_a_replaced_member_is_not_current_until_it_is_compared_again():
    models = Models(RANDOM)
    spaces = spaces_of(models)
    await spaces.compare()
    old = spaces.of("a").id
    assert spaces.is_current(old, "a", "space-of-a")
    assert not spaces.is_current(old, "a", "new-space-of-a")
    # nor for a request that was decided on the old one, before and after the next comparison
    assert not spaces.is_current(old, "a", "new-space-of-a")
    models.spaces["a"] = "new-space-of-a"
    await spaces.compare()
    assert not spaces.is_current(old, "a", "new-space-of-a")
    assert not spaces.is_current(old, "b", "space-of-b")
    assert spaces.is_current(spaces.of("a").id, "a", "new-space-of-a")
    assert not spaces.is_current(spaces.of("a").id, "stranger", "space-of-stranger")

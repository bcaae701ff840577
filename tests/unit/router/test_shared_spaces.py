"""Members of a space are compared before their vectors may be mixed."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.config.schema import Routing
from deployments.core.errors import ModelUnavailable
from deployments.core.models.spec import Role
from deployments.core.request import Embeddings
from deployments.core.routing.spaces import SAMPLES
from deployments.router.shared_spaces import Agreement
from deployments.wire.status import ModelState, ModelStatus

RANDOM = np.random.default_rng(0).standard_normal((len(SAMPLES), 64)).astype(np.float32)
OTHER = np.random.default_rng(1).standard_normal((len(SAMPLES), 64)).astype(np.float32)


class Models:
    """Two models, ``a`` and ``b``, and what they answer."""

    def __init__(self, b):
        self.vectors = {"a": RANDOM, "b": b}
        self.states = {"a": ModelState.READY, "b": ModelState.READY}
        self.spaces = {"a": "space-of-a", "b": "space-of-b"}
        self.asked = []
        self.failing = None

    async def encode(self, model, request):
        self.asked.append((model, request.role))
        if self.failing:
            raise self.failing
        return Embeddings(self.vectors[model], model, self.spaces[model], 1)

    def status(self, model):
        return ModelStatus(self.states[model])


def agreement(models, roles=("query", "document"), floor=0.9):
    members = [{"model": "a"}, {"model": "b", "roles": list(roles)}]
    spaces = [{"name": "pair", "members": members, "floor": floor}]
    made = Agreement(models.encode, models.status)
    made.configure(Routing.model_validate({"spaces": spaces}))
    return made


async def test_members_that_agree_share_a_space():
    near = RANDOM + 0.01 * OTHER
    made = agreement(Models(near))
    assert "not been compared yet" in made.shared("a").problem
    await made.look()
    shared = made.shared("a")
    assert shared.problem is None
    assert (shared.name, shared.id) == ("pair", made.shared("b").id)
    [verdict] = made.verdicts().values()
    assert 0.999 < verdict.worst < 1


async def test_members_that_disagree_are_refused_with_the_numbers():
    made = agreement(Models(OTHER))
    await made.look()
    problem = made.shared("b").problem
    assert "its members disagree" in problem
    assert "the floor is 0.9" in problem
    [verdict] = made.verdicts().values()
    assert abs(verdict.worst) < 0.6


async def test_one_text_apart_is_enough():
    one_off = RANDOM.copy()
    one_off[3] *= -1
    made = agreement(Models(one_off))
    await made.look()
    assert "-1.0000 at worst" in made.shared("a").problem


async def test_other_dimensions_are_refused():
    made = agreement(Models(RANDOM[:, :32]))
    await made.look()
    assert "dimensions are {'a': 64, 'b': 32}" in made.shared("a").problem


async def test_the_floor_is_the_configs():
    made = agreement(Models(RANDOM + OTHER), floor=0.1)
    await made.look()
    assert made.shared("a").problem is None


@pytest.mark.parametrize("state", [ModelState.COLD, ModelState.STARTING, ModelState.UNAVAILABLE])
async def test_it_waits_for_every_member(state):
    models = Models(RANDOM)
    models.states["b"] = state
    made = agreement(models)
    await made.look()
    assert f"b is {state}" in made.shared("a").problem
    assert models.asked == []
    models.states["b"] = ModelState.READY
    await made.look()
    assert made.shared("a").problem is None


async def test_a_member_that_fails_is_asked_again():
    models = Models(RANDOM)
    models.failing = ModelUnavailable("its replica died")
    made = agreement(models)
    await made.look()
    assert "its replica died" in made.shared("a").problem
    models.failing = None
    await made.look()
    assert made.shared("a").problem is None


async def test_a_verdict_is_reached_once_and_kept_over_a_change_of_something_else():
    models = Models(RANDOM)
    made = agreement(models)
    await made.look()
    count = len(models.asked)
    await made.look()
    spaces = made._spaces
    made.configure(Routing(aim="best", spaces=spaces))
    await made.look()
    assert len(models.asked) == count
    assert made.shared("a").problem is None
    made.configure(Routing())
    assert made.shared("a") is None


async def test_each_role_is_compared_and_stays_with_its_member():
    models = Models(RANDOM)
    made = agreement(models, roles=["query"])
    await made.look()
    assert {role for _, role in models.asked} == set(Role)
    assert made.shared("b").roles == {Role.QUERY}
    assert made.shared("stranger") is None


async def test_vectors_hold_for_the_space_that_was_compared():
    models = Models(RANDOM)
    made = agreement(models)
    await made.look()
    old = made.shared("a").id
    assert made.holds(old, "a", "space-of-a")
    assert not made.holds(old, "a", "new-space-of-a")
    # and not again for who was decided on the old one, before and after it is compared anew
    assert not made.holds(old, "a", "new-space-of-a")
    models.spaces["a"] = "new-space-of-a"
    await made.look()
    assert not made.holds(old, "a", "new-space-of-a")
    assert not made.holds(old, "b", "space-of-b")
    assert made.holds(made.shared("a").id, "a", "new-space-of-a")
    assert not made.holds(made.shared("a").id, "stranger", "space-of-stranger")

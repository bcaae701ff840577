"""The fake backend has the real protocol, so what the API tests show is true of the router."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from deployments.api.backend import Backend
from deployments.core.models.spec import Role
from deployments.core.request import EncodeRequest
from tests.api.fake_backend import INSTRUCT, PLAIN, SPECS, FakeBackend, expected


def methods_of(kind: type) -> dict[str, object]:
    return {name: m for name, m in vars(kind).items() if inspect.isfunction(m) and name[0] != "_"}


def test_it_has_the_protocols_members():
    real, fake = methods_of(Backend), methods_of(FakeBackend)
    assert set(real) <= set(fake)
    assert set(Backend.__annotations__) <= set(FakeBackend.__annotations__)
    for name in real:
        assert inspect.signature(real[name]) == inspect.signature(fake[name])
        assert inspect.iscoroutinefunction(real[name]) == inspect.iscoroutinefunction(fake[name])


@pytest.mark.parametrize("spec", [PLAIN, INSTRUCT])
def test_its_vectors_tell_roles_apart(spec):
    query, document = (expected(spec, EncodeRequest(("a",), role)) for role in Role)
    assert not np.allclose(query, document)


def test_its_models_are_of_different_spaces():
    assert len({item.space_id for item in FakeBackend().models()}) == len(SPECS)

"""Errors cross process boundaries with all they carry."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from deployments.api import http
from deployments.core import errors
from deployments.core.errors import EmbedfleetError


def below(kind: type[EmbedfleetError]) -> list[type[EmbedfleetError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))]


KINDS = below(EmbedfleetError)
FIELDS = [("m", None, None), ("m", "input", None), ("m", None, 0.5), ("", "model", 0.0)]


def test_every_kind_is_looked_at():
    assert {http.NotFound, errors.ContextLengthExceeded, errors.Overloaded} <= set(KINDS)


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sent", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_an_error_arrives_whole(kind, fields, sent):
    error = sent(kind(*fields))
    assert type(error) is kind
    assert (error.message, error.param, error.retry_after_s) == fields
    assert str(error) == fields[0]
    assert error.args == fields


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_has_a_place_on_the_wire(kind):
    assert 400 <= kind.status < 600
    assert (kind.type == "server_error") == (kind.status >= 500)
    assert re.fullmatch("[a-z][a-z0-9_]+", kind.code)


def test_codes_tell_errors_apart():
    actual = [kind.code for kind in KINDS]
    assert sorted(actual) == sorted(set(actual))


def test_the_tree_in_the_docstring_is_the_tree():
    tree = errors.__doc__
    assert tree is not None
    for kind in KINDS:
        if kind.__module__ == errors.__name__:
            [line] = [row for row in tree.splitlines() if f" {kind.__name__} " in f"{row} "]
            assert kind.code in line
            assert str(kind.status) in line or kind.status == kind.__base__.status

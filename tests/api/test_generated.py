"""Requests generated from the OpenAPI description, valid and invalid ones: the answers keep to it."""

from __future__ import annotations

import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from .calls import app_of
from .fake_backend import FakeBackend

schema = schemathesis.openapi.from_asgi("/openapi.json", app_of(FakeBackend()))
# what one model takes, another refuses (dimensions, instruction): no schema can say that
NOT_CHECKED = [positive_data_acceptance]


@schema.parametrize()
@settings(max_examples=40, deadline=None)
def test_the_answer_to_a_generated_request_is_as_described(case):
    case.call_and_validate(excluded_checks=NOT_CHECKED)

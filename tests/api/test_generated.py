"""The answers to valid and invalid requests generated from the OpenAPI description match it."""

from __future__ import annotations

import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.api.calls import app_of
from tests.api.fake_backend import FakeBackend

schema = schemathesis.openapi.from_asgi("/openapi.json", app_of(FakeBackend()))
# some models refuse what others accept (dimensions, instruction), which no schema can express
NOT_CHECKED = [positive_data_acceptance]


@schema.parametrize()
@settings(max_examples=40, deadline=None)
def test_the_answer_to_a_generated_request_is_as_described(case):
    case.call_and_validate(excluded_checks=NOT_CHECKED)

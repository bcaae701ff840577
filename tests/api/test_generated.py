"""The answers to valid and invalid requests generated from the OpenAPI description match it."""

from __future__ import annotations

from tempfile import TemporaryDirectory

import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from deployments.api.files import ApiBatches
from deployments.batches.store import open_store
from deployments.batches.threads import StoreThreads
from deployments.config.schema import BatchesConfig
from tests.api.calls import app_of
from tests.api.fake_backend import FakeBackend

folder = TemporaryDirectory()  # until the process ends
batches = ApiBatches(BatchesConfig(), StoreThreads(lambda: open_store(folder.name)))
schema = schemathesis.openapi.from_asgi("/openapi.json", app_of(FakeBackend(), batches=batches))
# some models refuse what others accept (dimensions, instruction), and ids must exist, which no schema can
# express
NOT_CHECKED = [positive_data_acceptance]


@schema.parametrize()
@settings(max_examples=40, deadline=None)
def test_the_answer_to_a_generated_request_is_as_described(case):
    is_form = case.media_type == "multipart/form-data"  # in which any bytes are a file
    case.call_and_validate(excluded_checks=NOT_CHECKED + [negative_data_rejection] * is_form)

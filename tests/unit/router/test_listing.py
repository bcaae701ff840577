"""Models as the router shows them to corpus jobs."""

from __future__ import annotations

from deployments.config.schema import ModelConfig
from deployments.core.models.catalog import CATALOG
from deployments.core.models.spec import Role
from deployments.router.listing import served_model
from deployments.wire.status import ModelState, ModelStatus, ServedModel

KNOWN = CATALOG["e5-small"]
READY = ModelStatus(ModelState.READY, 1)


def test_until_its_files_are_read_a_catalog_model_has_the_catalogs_spec():
    config = ModelConfig(name="e5-small")
    assert served_model(config, None, Role.QUERY, READY) == ServedModel(
        config, KNOWN, Role.QUERY, READY
    )


def test_the_catalogs_spec_does_not_hold_for_weights_from_elsewhere():
    tuned = ModelConfig(name="e5-small", path="/models/tuned")
    assert served_model(tuned, None, None, READY).spec is None
    assert served_model(tuned, KNOWN, None, READY).spec == KNOWN

"""The application that most tests of this folder call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from deployments.config.schema import ModelConfig
from deployments.core.checking.verdict import Engines, checked_engine
from deployments.core.models.describing import described
from deployments.core.models.loading import find_model
from testing.hashing import COMPUTED, WEIGHTS, save_model, save_sparse_model, save_weights
from testing.models.combinations import COMBINATIONS, TOKENIZER_QUIRKS
from testing.models.rerankers import save_reranker
from testing.running import RunningService
from testing.shared_service import SharedService

REAL, ODD, RERANKER = COMPUTED  # every other model hashes
# what only the config says of `ODD`
STATED: dict[str, Any] = {"prompts": {"query": "find: {text}"}, "max_tokens": 24}
SLOW_TOKENS_PER_S = 8_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the tests of this application together, since going back to it takes up to a minute."""
    places = [n for n, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    ours = {items[n].path for n in places if "service" in getattr(items[n], "fixturenames", ())}
    ordered = sorted((items[n] for n in places), key=lambda item: item.path not in ours)
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``hashed``, ``sparse``, ``slow``, ``broken``, whose weights are damaged, and some that compute."""
    folder = tmp_path_factory.mktemp("models")
    save_odd_model(folder / ODD)
    save_reranker(folder / RERANKER, "bert")
    save_model(folder / "hashed", seed=1)
    save_sparse_model(folder / "sparse", seed=4)
    save_model(folder / "slow", seed=2, tokens_per_s=SLOW_TOKENS_PER_S)
    damage(save_model(folder / "broken", seed=3))
    return folder


def save_odd_model(folder: Path) -> None:
    """Writes a model with much that folders of hubs may have; tests/fidelity has more, without HTTP.

    It treats queries and documents differently, does not pool their prompts, and has a vocabulary without
    tokenizer.json.
    """
    COMBINATIONS["bert, Router without the prompt"].save(folder)
    TOKENIZER_QUIRKS["vocabulary only"](folder)


@pytest.fixture(scope="module")
def broken_model(models_folder: Path) -> Path:
    return models_folder / "broken"


def compare_in_advance(models: Sequence[Mapping[str, Any]]) -> None:
    """Compares these with sentence-transformers here; replicas would import it each, which takes seconds.

    The replica of the reranker does so itself.
    """
    for model in models:
        config = ModelConfig.model_validate(model)
        files = find_model(config.name, config.path, overrides=config.overrides)
        checked_engine(Engines(described(files), files, "auto", config.dtype))


def stock_of(models_folder: Path) -> SentenceTransformer:
    """Returns sentence-transformers' own `ODD`, with what the config says of it."""
    stock = SentenceTransformer(str(models_folder / ODD), device="cpu")
    stock.max_seq_length = STATED["max_tokens"]
    for role, template in STATED["prompts"].items():
        stock.prompts[role] = template.removesuffix("{text}")
    if "passage" in stock.prompts:
        stock.prompts["document"] = stock.prompts["passage"]
    return stock


def damage(model: Path) -> None:
    """Cuts a model's weight file in half."""
    weights = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(weights[: len(weights) // 2])


def mend(model: Path) -> None:
    """Puts the whole weight file back."""
    save_weights(model, seed=3)


@pytest.fixture(scope="module")
def service(shared_service: SharedService, models_folder: Path) -> RunningService:
    """Models that answer, and models that cannot."""
    float32 = {"dtype": "float32"}
    models = [
        {"name": REAL, "threads": 2},
        # in float32, so that the comparison is strict; MiniLM has this machine's best precision
        {"name": ODD, "path": str(models_folder / ODD), "num_cpus": 0, **float32, **STATED},
        {"name": RERANKER, "path": str(models_folder / RERANKER), "num_cpus": 0, **float32},
        {"name": "hashed", "path": str(models_folder / "hashed")},
        {"name": "sparse", "path": str(models_folder / "sparse"), "num_cpus": 0},
        # Ray Data's own tasks need a whole core of the two that the smallest machine has
        {"name": "slow", "path": str(models_folder / "slow"), "num_cpus": 0},
        {"name": "broken", "path": str(models_folder / "broken"), "num_cpus": 0},
        {"name": "e5-small-v2"},  # not on this machine, and the hub cannot be reached
        {"name": "linq-embed-mistral", "num_gpus": 1},  # needs a GPU that the cluster lacks
    ]
    app = {"import_path": "testing.hashing:build_with_computed"}
    compare_in_advance([model for model in models if model["name"] in (REAL, ODD)])
    ready = (*COMPUTED, "hashed", "sparse", "slow")
    return shared_service.serve(models, ready, app, batches={"wait_s": 3})

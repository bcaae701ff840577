"""What the choice of a model costs a router, in CPU microseconds a request.

    python -m benchmarks.choosing

In one process, without Ray: six models of the catalog, each in front of MiniLM's tokenizer, so that
texts which a model's limit is in doubt for are really counted. A request for a short text takes a
few milliseconds on the same CPU, mostly in the model.
"""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

from cluster.service.tables import table
from deployments.client.preprocessing import Preprocessor
from deployments.config.schema import AppArgs
from deployments.core.models.catalog import CATALOG
from deployments.core.models.loading import find_model
from deployments.core.models.tokenizer import FastTokenizer
from deployments.core.routing.facts import Facts, ModelState
from deployments.core.routing.languages import languages_of, preload
from deployments.router.chooser import Chooser
from deployments.wire.status import ModelStatus

SENTENCE = "How much protein should a woman of forty eat in a day? "
REQUESTS = {
    "by name": ("e5-small", [SENTENCE]),
    "auto, 10 English words": ("auto", [SENTENCE]),
    "auto, Korean": ("auto", ["조선 최초의 원자력 발전소는 무엇인가"]),
    "auto, 32 English texts": ("auto", [f"{i} {SENTENCE}" for i in range(32)]),
    "auto, 1,000 English words": ("auto", [SENTENCE * 90]),
}


def chooser() -> Chooser:
    """Returns a chooser over the whole catalog, all ready and idle."""
    files = find_model("all-MiniLM-L6-v2", weights=False)
    tokenizer = FastTokenizer(files.spec, files.folder)
    args = AppArgs.model_validate({"models": [{"name": name} for name in CATALOG]})
    clients: Any = {
        name: SimpleNamespace(preprocessor=Preprocessor(spec, tokenizer), spec=spec)
        for name, spec in CATALOG.items()
    }
    ready = ModelStatus(ModelState.READY, 1)
    fleet: Any = SimpleNamespace(status=lambda _: ready, measured=lambda _: None)
    return Chooser(args, clients, fleet, lambda _: None)


async def measure(made: Chooser, model: str, texts: list[str], rounds: int = 300) -> float:
    """Returns CPU microseconds of this process for one choice."""
    for _ in range(10):
        await made.choose(Facts(model), texts)
    started = time.process_time()
    for _ in range(rounds):
        await made.choose(Facts(model), texts)
    return (time.process_time() - started) / rounds * 1e6


async def main() -> None:
    """Prints the table."""
    preload()
    made = chooser()
    rows = []
    for what, (model, texts) in REQUESTS.items():
        started = time.process_time()
        for _ in range(100):
            languages_of(texts)
        languages = (time.process_time() - started) / 100 * 1e6 if model == "auto" else 0.0
        _, decision = await made.choose(Facts(model), texts)
        micros = await measure(made, model, texts)
        rows.append((what, f"{micros:.0f}", f"{languages:.0f}", decision.model))
    print(table(("REQUEST", "CPU µs", "OF IT LANGUAGES", "ANSWERED BY"), rows))


if __name__ == "__main__":
    asyncio.run(main())

"""What choosing a model costs a router, in CPU microseconds a request.

    python -m benchmarks.choosing

In one process, without Ray. All models of the catalog are configured, and each has MiniLM's
tokenizer, so that texts near a model's limit are really counted. For comparison, a request for a
short text takes a few milliseconds on the same CPU, mostly in the model.
"""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

from benchmarks.common.reporting import parser, report
from deployments.client.preprocessing import Preprocessor
from deployments.config.schema import AppArgs
from deployments.core.models.catalog import CATALOG
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model
from deployments.core.routing.facts import ModelState, RequestFacts
from deployments.core.routing.languages import languages_of, preload
from deployments.router.chooser import Chooser
from deployments.wire.status import ModelStatus

SENTENCE = "How much protein should a woman of forty eat in a day? "
BY_NAME = "by name"
REQUESTS = {
    BY_NAME: ("e5-small", [SENTENCE]),
    "auto, 10 English words": ("auto", [SENTENCE]),
    "auto, Korean": ("auto", ["조선 최초의 원자력 발전소는 무엇인가"]),
    "auto, 32 English texts": ("auto", [f"{i} {SENTENCE}" for i in range(32)]),
    "auto, 1,000 English words": ("auto", [SENTENCE * 90]),
}
ROUNDS = 300


def build_chooser() -> Chooser:
    """Returns a chooser over the whole catalog, with every model ready and idle."""
    files = find_model("all-MiniLM-L6-v2", weights=False)
    tokenizer = describe(files.spec, files.folder).fast_tokenizer()
    args = AppArgs.model_validate({"models": [{"name": name} for name in CATALOG]})
    clients: Any = {
        name: SimpleNamespace(preprocessor=Preprocessor(spec, tokenizer), spec=spec)
        for name, spec in CATALOG.items()
    }
    ready = ModelStatus(ModelState.READY, 1)
    fleet: Any = SimpleNamespace(status=lambda _: ready, measured=lambda _: None)
    return Chooser(args, clients, fleet, lambda _: None)


async def choice_us(chooser: Chooser, model: str, texts: list[str]) -> float:
    """Returns CPU microseconds of this process for one choice."""
    for _ in range(10):
        await chooser.choose(RequestFacts(model), texts)
    started = time.process_time()
    for _ in range(ROUNDS):
        await chooser.choose(RequestFacts(model), texts)
    return (time.process_time() - started) / ROUNDS * 1e6


def languages_us(texts: list[str]) -> float:
    """Returns CPU microseconds for the languages of the texts."""
    started = time.process_time()
    for _ in range(ROUNDS):
        languages_of(texts)
    return (time.process_time() - started) / ROUNDS * 1e6


async def measure() -> None:
    """Prints the table."""
    preload()
    chooser = build_chooser()
    costs = {name: await choice_us(chooser, *request) for name, request in REQUESTS.items()}
    rows = []
    for name, (model, texts) in REQUESTS.items():
        _, decision = await chooser.choose(RequestFacts(model), texts)
        languages = languages_us(texts) if model == "auto" else 0.0
        ratio = f"{costs[name] / costs[BY_NAME]:.1f}"
        rows.append((name, f"{costs[name]:.0f}", ratio, f"{languages:.0f}", decision.model))
    header = ("REQUEST", "CPU µs", "TO BY NAME", "OF THAT LANGUAGES", "ANSWERED BY")
    report("choosing", header, rows)


def main() -> None:
    """Reads the command line and measures."""
    parser("choosing", __doc__).parse_args()
    asyncio.run(measure())


if __name__ == "__main__":
    main()

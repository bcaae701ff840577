"""Tokens a second of the engine alone, without Ray, beside its peers and the bound.

    python -m benchmarks.engine [--models NAME …] [--rounds N] [--threads N] [--quick]

On a CPU or a GPU; needs torch, transformers and sentence-transformers, and takes OpenVINO and ONNX
Runtime along where they are installed. The engines run in turn, round after round; what is shown is
the median, the least and the most, and ratios are medians of each round's. The bound is what plain
matrix multiplication of the model's own shapes reaches in the same round, divided by the operations
that a token needs. Cosines are to sentence-transformers in float32.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig

from benchmarks import engines
from benchmarks.bar_charts import Panel, draw
from benchmarks.bound import Bound
from benchmarks.engines import Encode, Missing, Setting
from benchmarks.reporting import cores, machine, paired, report, spread
from benchmarks.shapes import BUNDLED, SHAPES, find
from benchmarks.texts import KINDS, Case, case
from deployments.core.batch import Vectors
from deployments.core.engine.device import choose_device
from deployments.core.engine.engine import TorchEngine
from deployments.core.models.tokenizer import FastTokenizer

OURS, OURS_FROM_TEXTS, BOUND = "embedfleet", "embedfleet, from texts", "bound"
DEFAULTS, SAME = "sentence-transformers, defaults", "sentence-transformers, same precision"
OPENVINO, ORT = "OpenVINO bf16", "ONNX Runtime float32"
FROM_TEXTS = (DEFAULTS, SAME)  # compared with our engine and tokenizer, not with the engine alone
HEADER = ("MODEL", "TEXTS", "ENGINE", "TOKENS/S", "OF BOUND", "EMBEDFLEET ÷ THIS", "WORST COSINE")
# tokens a round, so that a round of all engines takes seconds; what is left out is too slow there
TOKENS = {
    "cpu": {BUNDLED: 20_000, "e5-small": 12_000},
    "cuda": {
        BUNDLED: 600_000,
        "e5-small": 400_000,
        "multilingual-e5-large": 100_000,
        "mistral-7b": 20_000,
    },
}
FEWEST_TOKENS = 2_000
TOKEN_BUDGETS = {"cpu": 1_024, "cuda": 32_768}


@dataclass
class Found:
    """What one case gave: tokens a second of each engine round by round, and its last vectors."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    vectors: dict[str, Vectors] = field(default_factory=dict)

    def of_bound(self, name: str) -> float:
        """Returns this engine's part of the bound, measured in the same rounds."""
        return paired(self.rates[name], self.rates[BOUND])

    def ahead(self, name: str) -> float:
        """Returns how many times as fast as this engine ours is."""
        ours = OURS_FROM_TEXTS if name in FROM_TEXTS else OURS
        return paired(self.rates[ours], self.rates[name])

    def worst_cosine(self, name: str) -> float:
        """Returns the least cosine of a text between this engine and float32."""
        return float((self.vectors[name] * self.vectors[DEFAULTS]).sum(axis=1).min())


@dataclass(frozen=True)
class Contest:
    """The engines that have loaded one model, why others have not, and the bound."""

    encoders: dict[str, Encode]
    missing: dict[str, str]
    bound: Bound

    def run(self, texts: Case, rounds: int) -> Found:
        """Encodes the texts with each engine in turn, after a round that warms up."""
        found = Found({name: [] for name in (*self.encoders, BOUND)})
        for encode in self.encoders.values():
            encode(texts)
        for _ in range(rounds):
            rate = self.bound.operations_per_s()
            found.rates[BOUND].append(self.bound.tokens_per_s(texts, rate))
            for name, encode in self.encoders.items():
                started = time.perf_counter()
                found.vectors[name] = encode(texts)
                seconds = time.perf_counter() - started
                found.rates[name].append(texts.batch.tokens / seconds)
        return found


def contest(setting: Setting) -> Contest:
    """Loads a model into every engine that can run it here."""
    engine = TorchEngine(setting.files.spec, setting.files.folder, str(setting.device), threads=1)
    makers: dict[str, Callable[[], Encode]] = {
        OURS: lambda: engines.embedfleet(setting, engine),
        OURS_FROM_TEXTS: lambda: engines.embedfleet_from_texts(setting, engine),
        SAME: lambda: engines.st_same_precision(setting, engine.computes_in),
        DEFAULTS: lambda: engines.st_defaults(setting),
        OPENVINO: lambda: engines.openvino(setting),
        ORT: lambda: engines.onnx_runtime(setting),
    }
    encoders, missing = {}, {}
    for name, make in makers.items():
        try:
            encoders[name] = make()
        except Missing as reason:
            missing[name] = str(reason)
    config = AutoConfig.from_pretrained(setting.files.folder)
    return Contest(encoders, missing, Bound(config, engine.computes_in, setting.device))


def measure(name: str, args: argparse.Namespace, device: torch.device) -> dict[str, Found]:
    """Returns what each kind of texts gave, and prints the engines that took no part."""
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        files = find(name, Path(folder), device)
        budget = args.token_budget or TOKEN_BUDGETS[device.type]
        made = contest(Setting(files, device, args.threads, budget))
        tokenizer = FastTokenizer(files.spec, files.folder)
    tokens = args.tokens or TOKENS[device.type].get(name, FEWEST_TOKENS)
    found = {}
    for kind in args.texts:
        found[kind] = made.run(case(kind, tokenizer, tokens), args.rounds)
        print(f"{name}, {kind}: {found[kind].ahead(DEFAULTS):.1f}× {DEFAULTS}", flush=True)
    args.missing[name] = made.missing
    return found


def rows(results: dict[str, dict[str, Found]]) -> list[tuple[object, ...]]:
    """Returns the lines of the table."""
    return [
        _row(model, kind, found, name)
        for model, kinds in results.items()
        for kind, found in kinds.items()
        for name in found.rates
    ]


def _row(model: str, kind: str, found: Found, name: str) -> tuple[object, ...]:
    start = (model, kind, name, spread(found.rates[name]), f"{found.of_bound(name):.2f}")
    if name == BOUND:
        return (*start, "", "")
    ahead = "" if name in (OURS, OURS_FROM_TEXTS) else f"{found.ahead(name):.2f}"
    return (*start, ahead, f"{found.worst_cosine(name):.5f}")


def chart(results: dict[str, dict[str, Found]], args: argparse.Namespace) -> None:
    """Draws one panel for each model and kind of texts."""
    panels = [
        Panel(
            f"{model}: {kind}",
            {name: rates for name, rates in found.rates.items() if name != BOUND},
            statistics.median(found.rates[BOUND]),
        )
        for model, kinds in results.items()
        for kind, found in kinds.items()
    ]
    note = f"dashed: what the measured rate of matrix multiplication allows. {machine()}, "
    note += f"{args.threads} threads; medians of {args.rounds} rounds, lines from least to most"
    draw("engine", "Engine alone: tokens per second", panels, len(args.texts), note)


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine")
    parser.add_argument("--models", nargs="+", choices=SHAPES, help="default: what the device can")
    parser.add_argument("--texts", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, help="tokens a round; default: by model")
    parser.add_argument("--threads", type=int, default=cores(), help="default: all cores")
    parser.add_argument("--token-budget", type=int, help="padded tokens of one pass")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="the bundled model, few texts")
    return parser.parse_args()


def main() -> None:
    """Prints the table and draws the chart."""
    args = arguments()
    device = choose_device(args.device)
    if args.quick:
        args.models, args.rounds, args.tokens = args.models or [BUNDLED], 3, 4_000
    args.missing, results = {}, {}
    for name in args.models or TOKENS[device.type]:
        results[name] = measure(name, args, device)
        gc.collect()
        torch.cuda.empty_cache()
    report(
        "engine",
        HEADER,
        rows(results),
        raw={m: {k: found.rates for k, found in kinds.items()} for m, kinds in results.items()},
        threads=args.threads,
        default_threads=engines.DEFAULT_THREADS,
        torch=torch.__version__,
        took_no_part=args.missing,
    )
    chart(results, args)


if __name__ == "__main__":
    main()

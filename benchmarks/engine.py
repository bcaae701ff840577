"""The engine alone, without Ray: tokens a second beside other engines and the bound.

    python -m benchmarks.engine [--models NAME …] [--engines NAME …] [--rounds N] [--quick]

Runs on a CPU or a GPU. It needs torch, transformers and sentence-transformers, and also measures
OpenVINO and ONNX Runtime if they are installed. The engines take turns, round after round. Figures
are the median, the least and the most of the rounds; ratios are medians of the rounds' ratios. The
bound is the rate of plain matrix multiplication in the model's own shapes, measured in the same
round, divided by the operations that a token needs. Cosines are to sentence-transformers in
float32.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig

from benchmarks.common.charts import Bars, draw_bars
from benchmarks.common.machine import machine
from benchmarks.common.reporting import median_ratio, parser, report, spread
from benchmarks.common.shapes import BUNDLED, SHAPES, find
from benchmarks.common.texts import KINDS, Case, case
from benchmarks.peers import Missing, engines
from benchmarks.peers.engines import Encode, Setting
from deployments.core.batch import Vectors
from deployments.core.engine.cpu.cores import usable_cores
from deployments.core.engine.device import choose_device
from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.matrix_rate import Bound
from deployments.core.models.description import describe

GENERAL = "embedfleet, general path"
OURS, OURS_FROM_TEXTS, BOUND = "embedfleet", "embedfleet, from texts", "bound"
DEFAULTS, SAME = "sentence-transformers, defaults", "sentence-transformers, same precision"
OPENVINO, ORT = "OpenVINO bf16", "ONNX Runtime float32"
PEERS = (GENERAL, DEFAULTS, SAME, OPENVINO, ORT)
FROM_TEXTS = (DEFAULTS, SAME)  # they tokenize too, so we compare our tokenizer and engine
HEADER = ("MODEL", "TEXTS", "ENGINE", "TOKENS/S", "OF BOUND", "EMBEDFLEET ÷ THIS", "WORST COSINE")
# tokens a round, so that a round of all engines takes seconds; other models are too slow there
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
class Measured:
    """One case: tokens a second of each engine round by round, and its last vectors."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    vectors: dict[str, Vectors] = field(default_factory=dict)

    def of_bound(self, name: str) -> float:
        """Returns this engine's share of the bound, measured in the same rounds."""
        return median_ratio(self.rates[name], self.rates[BOUND])

    def ahead(self, name: str) -> float:
        """Returns our rate divided by this engine's, in the same rounds."""
        ours = OURS_FROM_TEXTS if name in FROM_TEXTS else OURS
        return median_ratio(self.rates[ours], self.rates[name])

    def worst_cosine(self, name: str) -> float:
        """Returns the least cosine of any text to float32, or to our engine if that was not measured."""
        reference = self.vectors.get(DEFAULTS, self.vectors[OURS])
        return float((self.vectors[name] * reference).sum(axis=1).min())


@dataclass(frozen=True)
class LoadedEngines:
    """The engines that have loaded one model, why others could not, and the bound."""

    encoders: dict[str, Encode]
    missing: dict[str, str]
    bound: Bound

    def run(self, texts: Case, rounds: int) -> Measured:
        """Encodes the texts with each engine in turn, after a warm-up."""
        measured = Measured({name: [] for name in (*self.encoders, BOUND)})
        for encode in self.encoders.values():
            encode(texts)
        for _ in range(rounds):
            rate = self.bound.operations_per_s()
            measured.rates[BOUND].append(self.bound.tokens_per_s(texts.attended, rate))
            for name, encode in self.encoders.items():
                started = time.perf_counter()
                measured.vectors[name] = encode(texts)
                seconds = time.perf_counter() - started
                measured.rates[name].append(texts.batch.tokens / seconds)
        return measured


def load_engines(setting: Setting, wanted: Sequence[str]) -> LoadedEngines:
    """Loads a model into those of the ``wanted`` engines that can run it here, and into ours."""
    engine = TorchEngine(setting.files.spec, setting.files.folder, str(setting.device), threads=1)
    makers: dict[str, Callable[[], Encode]] = {
        OURS: lambda: engines.embedfleet(setting, engine),
        OURS_FROM_TEXTS: lambda: engines.embedfleet_from_texts(setting, engine),
        GENERAL: lambda: engines.embedfleet_general(setting),
        SAME: lambda: engines.st_same_precision(setting, engine.computes_in),
        DEFAULTS: lambda: engines.st_defaults(setting),
        OPENVINO: lambda: engines.openvino(setting),
        ORT: lambda: engines.onnx_runtime(setting),
    }
    encoders, missing = {}, {}
    for name, make in makers.items():
        if name in PEERS and name not in wanted:
            continue
        try:
            encoders[name] = make()
        except Missing as reason:
            missing[name] = str(reason)
    config = AutoConfig.from_pretrained(setting.files.folder)
    return LoadedEngines(encoders, missing, Bound(config, engine.computes_in, setting.device))


def measure(
    name: str, args: argparse.Namespace, device: torch.device
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Measures all engines on each kind of texts; also returns those that could not run, and why."""
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        files = find(name, Path(folder), device)
        budget = args.token_budget or TOKEN_BUDGETS[device.type]
        loaded = load_engines(Setting(files, device, args.threads, budget), args.engines)
        tokenizer = describe(files.spec, files.folder).fast_tokenizer()
    tokens = args.tokens or TOKENS[device.type].get(name, FEWEST_TOKENS)
    measured = {}
    for kind in args.texts:
        measured[kind] = loaded.run(case(kind, tokenizer, tokens), args.rounds)
        peers = [peer for peer in PEERS if peer in measured[kind].rates]
        ahead = ", ".join(f"{measured[kind].ahead(peer):.1f}× {peer}" for peer in peers)
        print(f"{name}, {kind}: {ahead}", flush=True)
    return measured, loaded.missing


def rows(results: dict[str, dict[str, Measured]]) -> list[tuple[object, ...]]:
    """Returns the lines of the table."""
    return [
        _row(model, kind, measured, name)
        for model, kinds in results.items()
        for kind, measured in kinds.items()
        for name in measured.rates
    ]


def _row(model: str, kind: str, measured: Measured, name: str) -> tuple[object, ...]:
    start = (model, kind, name, spread(measured.rates[name]), f"{measured.of_bound(name):.2f}")
    if name == BOUND:
        return (*start, "", "")
    ahead = "" if name in (OURS, OURS_FROM_TEXTS) else f"{measured.ahead(name):.2f}"
    return (*start, ahead, f"{measured.worst_cosine(name):.5f}")


def chart(results: dict[str, dict[str, Measured]], args: argparse.Namespace) -> None:
    """Draws one panel for each model and kind of texts."""
    panels = [
        Bars(
            f"{model}: {kind}",
            {name: rates for name, rates in measured.rates.items() if name != BOUND},
            statistics.median(measured.rates[BOUND]),
        )
        for model, kinds in results.items()
        for kind, measured in kinds.items()
    ]
    note = f"dashed: the bound, by the measured rate of matrix multiplication. {machine()}, "
    note += f"{args.threads} threads; medians of {args.rounds} rounds, lines from least to most"
    draw_bars("engine", "Engine alone: tokens per second", panels, len(args.texts), note)


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    options = parser("engine", __doc__)
    options.add_argument("--models", nargs="+", choices=SHAPES, help="default: by the device")
    options.add_argument("--engines", nargs="+", choices=PEERS, default=list(PEERS))
    options.add_argument("--texts", nargs="+", choices=KINDS, default=list(KINDS))
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--tokens", type=int, help="tokens a round; default: by model")
    options.add_argument("--threads", type=int, default=usable_cores(), help="default: all cores")
    options.add_argument("--token-budget", type=int, help="most (padded) tokens of a forward pass")
    options.add_argument("--device", default="auto")
    options.add_argument("--quick", action="store_true", help="the bundled model, few texts")
    return options.parse_args()


def main() -> None:
    """Prints the table and draws the chart."""
    args = arguments()
    device = choose_device(args.device)
    if args.quick:
        args.models, args.rounds, args.tokens = args.models or [BUNDLED], 3, 4_000
    results, missing = {}, {}
    for name in args.models or TOKENS[device.type]:
        results[name], missing[name] = measure(name, args, device)
        gc.collect()
        torch.cuda.empty_cache()
    report(
        "engine",
        HEADER,
        rows(results),
        raw={
            m: {k: measured.rates for k, measured in kinds.items()} for m, kinds in results.items()
        },
        threads=args.threads,
        default_threads=engines.DEFAULT_THREADS,
        torch=torch.__version__,
        could_not_run=missing,
    )
    chart(results, args)


if __name__ == "__main__":
    main()

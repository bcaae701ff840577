"""The running service over HTTP, beside Infinity and a plain FastAPI app, on CPUs.

    python -m benchmarks.online [--rounds N] [--seconds N] [--quick]
        [--peers NAME …] [--infinity-folder DIR] [--infinity-url URL]

All servers run all-MiniLM-L6-v2 and get the same requests, with changing texts, from ``wrk``. They
run one after another, round after round, each after a warm-up. Figures are the median, the least
and the most of the rounds. Infinity is installed in DIR on first use
(`benchmarks/peers/infinity.sh`). To use an Infinity that runs already, with all-MiniLM-L6-v2 as the
model "m", pass --infinity-url.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from benchmarks.common.charts import Bars, draw_bars
from benchmarks.common.load import closed_loop
from benchmarks.common.machine import machine
from benchmarks.common.reporting import parser, report, spread
from benchmarks.common.service import MODEL
from benchmarks.common.texts import texts_of
from benchmarks.peers import Missing
from benchmarks.peers.servers import (
    ProcessorTime,
    Server,
    embedfleet,
    infinity,
    plain_app,
    running_infinity,
)
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model

OURS = ("embedfleet", "embedfleet, 2 threads")
REPOSITORY = Path(__file__).parents[1]
BODIES = 100
HEADER = (
    "REQUESTS",
    "SERVER",
    "P50 MS",
    "P99 MS",
    "TEXTS/S",
    "ERRORS",
    "CPU S/1,000 TEXTS",
    "OF THAT BY RAY",
    "GENERATOR CPU S",
)
Start = Callable[[], AbstractContextManager[Server]]


@dataclass(frozen=True)
class Scenario:
    """What callers send: texts of a kind, how many a request, on how many connections."""

    kind: str
    texts: int
    connections: int

    def __str__(self) -> str:
        what = "1 text" if self.texts == 1 else f"{self.texts} passages"
        return f"{what}, c={self.connections}"

    def bodies(self, server: Server) -> list[dict[str, object]]:
        """Returns the bodies of different requests."""
        texts = _texts(self.kind)
        starts = range(0, BODIES * self.texts, self.texts)
        return [
            server.body([texts[i % len(texts)] for i in range(start, start + self.texts)])
            for start in starts
        ]


SCENARIOS = (
    Scenario("short queries", 1, 1),
    Scenario("short queries", 1, 16),
    Scenario("short queries", 1, 64),
    Scenario("passages", 32, 4),
)


@dataclass(frozen=True)
class Measured:
    """One run of one scenario. Processor times are seconds per 1,000 texts.

    A figure is None if it is not known, or if no answer came in time.
    """

    p50_ms: float | None
    p99_ms: float | None
    texts_s: float
    errors: int
    cpu_s: float | None
    ray_cpu_s: float | None
    generator_cpu_s: float


@cache
def _texts(kind: str) -> list[str]:
    files = find_model(MODEL, weights=False)
    return texts_of(kind, describe(files.spec, files.folder).fast_tokenizer())


def measure(server: Server, scenario: Scenario, seconds: float) -> Measured:
    """Puts the server under load."""
    bodies = scenario.bodies(server)
    server.settle()
    before = ProcessorTime.below(server.pid)
    loop = closed_loop(server.url, bodies, scenario.connections, seconds)
    if not loop.rate:
        return Measured(None, None, 0.0, loop.errors, None, None, loop.cpu_s)
    texts_s = loop.rate * scenario.texts
    thousands = texts_s * seconds / 1_000
    cpu_s, ray_cpu_s = (
        None if spent is None else spent / thousands
        for spent in ProcessorTime.below(server.pid).since(before)
    )
    p50_ms, p99_ms = loop.p50_s * 1e3, loop.p99_s * 1e3
    return Measured(p50_ms, p99_ms, texts_s, loop.errors, cpu_s, ray_cpu_s, loop.cpu_s)


def run_once(start: Start, seconds: float) -> dict[Scenario, Measured]:
    """Starts a server, warms it up and measures every scenario."""
    with start() as server:
        for scenario in (SCENARIOS[-1], SCENARIOS[1]):
            server.settle()
            bodies = scenario.bodies(server)
            closed_loop(server.url, bodies, scenario.connections, min(seconds, 4))
        return {scenario: measure(server, scenario, seconds) for scenario in SCENARIOS}


@dataclass
class Results:
    """Each server's figures in each scenario, round by round, and why others could not run."""

    measured: dict[str, dict[Scenario, list[Measured]]]
    missing: dict[str, str]

    def add(self, name: str, start: Start, seconds: float) -> None:
        """Runs a server for one round, unless it has failed before."""
        if name in self.missing:
            return
        try:
            scenarios = run_once(start, seconds)
        except Missing as reason:
            self.missing[name] = str(reason)
            self.measured.pop(name, None)
            return
        for scenario, figures in scenarios.items():
            self.measured.setdefault(name, {}).setdefault(scenario, []).append(figures)

    def values(self, name: str, scenario: Scenario, what: str) -> list[float]:
        """Returns one figure of each round; none if it is not known."""
        values = [getattr(figures, what) for figures in self.measured[name][scenario]]
        return [] if None in values else values

    def to_best_peer(self, scenario: Scenario) -> str:
        """Returns our latency (of one connection) or our rate, divided by the best peer's."""
        what, best = ("p50_ms", min) if scenario.connections == 1 else ("texts_s", max)
        figures = {n: self.values(n, scenario, what) for n in self.measured}
        peers = {n: values for n, values in figures.items() if n not in OURS and any(values)}
        ours = [figures[name] for name in OURS if any(figures.get(name, ()))]
        if not peers or not ours:
            return "nothing to compare"
        name = best(peers, key=lambda peer: statistics.median(peers[peer]))
        theirs = statistics.median(peers[name])
        ratios = [f"{statistics.median(values) / theirs:.2f}" for values in ours]
        return f"{what.split('_')[0]} {', '.join(ratios)} × {name}"


def servers(args: argparse.Namespace) -> dict[str, Start]:
    """Returns the servers to measure, and how to start each."""
    if args.infinity_url:
        peers: dict[str, Start] = {"Infinity": partial(running_infinity, args.infinity_url)}
    else:
        start = partial(infinity, args.infinity_folder)
        peers = {
            "Infinity, ONNX Runtime": partial(start, "optimum", "float32"),
            "Infinity, torch bf16": partial(start, "torch", "bfloat16"),
        }
    peers["FastAPI + sentence-transformers"] = plain_app
    wanted = tuple(args.peers)
    ours: dict[str, Start] = {OURS[0]: embedfleet, OURS[1]: partial(embedfleet, threads=2)}
    return {**ours, **{n: start for n, start in peers.items() if n.startswith(wanted)}}


def row(results: Results, scenario: Scenario, name: str) -> tuple[object, ...]:
    """Returns one line of the table."""
    digits = {"p50_ms": 1, "p99_ms": 1, "texts_s": 0, "cpu_s": 2, "ray_cpu_s": 2}
    figures = {what: results.values(name, scenario, what) for what in digits}
    cells = {what: spread(v, digits[what]) if v else "-" for what, v in figures.items()}
    errors = int(sum(results.values(name, scenario, "errors")))
    generator = f"{statistics.median(results.values(name, scenario, 'generator_cpu_s')):.2f}"
    speed = (cells["p50_ms"], cells["p99_ms"], cells["texts_s"])
    return (str(scenario), name, *speed, errors, cells["cpu_s"], cells["ray_cpu_s"], generator)


def chart(results: Results, args: argparse.Namespace) -> None:
    """Draws latency, texts a second and processor time, a column for each scenario."""
    figures = {"p50 ms (less is better)": ("p50_ms", 1), "texts/s": ("texts_s", 0)}
    figures["CPU s/1,000 texts (less is better)"] = ("cpu_s", 2)
    panels = [
        Bars(f"{scenario}: {words}", _bars(results, scenario, what), digits=digits)
        for words, (what, digits) in figures.items()
        for scenario in SCENARIOS
    ]
    note = f"{machine()}; medians of {args.rounds} rounds of {args.seconds:g} s, "
    draw_bars(
        "online", "all-MiniLM-L6-v2 over HTTP", panels, len(SCENARIOS), note + "least to most"
    )


def _bars(results: Results, scenario: Scenario, what: str) -> dict[str, Sequence[float]]:
    bars = {name: results.values(name, scenario, what) for name in results.measured}
    return {name: values for name, values in bars.items() if values}


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    options = parser("online", __doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    options.add_argument("--quick", action="store_true", help="one round of 3 seconds each")
    folder = REPOSITORY / "build" / "infinity"
    options.add_argument("--infinity-folder", type=Path, default=folder)
    options.add_argument("--infinity-url", help="of an Infinity that runs already")
    options.add_argument(
        "--peers", nargs="*", default=[""], help="only those whose names start like this"
    )
    args = options.parse_args()
    if args.quick:
        args.rounds, args.seconds = 1, 3.0
    return args


def main() -> None:
    """Prints the table and draws the chart."""
    args = arguments()
    results = Results({}, {})
    for number in range(args.rounds):
        for name, start in servers(args).items():
            print(f"round {number + 1} of {args.rounds}: {name}", flush=True)
            results.add(name, start, args.seconds)
    report(
        "online",
        HEADER,
        [row(results, s, name) for s in SCENARIOS for name in results.measured],
        raw={n: {str(s): list(map(asdict, f[s])) for s in f} for n, f in results.measured.items()},
        **{str(s): results.to_best_peer(s) for s in SCENARIOS},
        could_not_run=results.missing,
    )
    chart(results, args)


if __name__ == "__main__":
    main()

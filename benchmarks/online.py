"""The running service beside Infinity and a plain FastAPI app, over HTTP, on this machine's CPU.

    python -m benchmarks.online [--rounds N] [--seconds N] [--quick]
        [--peers NAME …] [--infinity-folder DIR] [--infinity-url URL]

All serve all-MiniLM-L6-v2 to the same requests, of texts that change, from ``wrk``. The servers run
one after another, round after round, each warmed up; what is shown is the median, the least and the
most. Infinity is set up in DIR once (`benchmarks/infinity.sh`); where one with all-MiniLM-L6-v2 runs
already, as the model "m", say where: --infinity-url.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from benchmarks.bar_charts import Panel, draw
from benchmarks.closed_loop import wrk
from benchmarks.engines import Missing
from benchmarks.harness import MODEL
from benchmarks.peers import Server, elsewhere, embedfleet, infinity, plain_app
from benchmarks.reporting import machine, report, spread
from benchmarks.texts import chosen
from benchmarks.usage import Usage
from deployments.core.models.loading import find_model
from deployments.core.models.tokenizer import FastTokenizer

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
    "OF IT RAY'S OWN",
    "GENERATOR CPU S",
)
Start = Callable[[], AbstractContextManager[Server]]


@dataclass(frozen=True)
class Scenario:
    """What callers do: texts of a kind, so many a request, on so many connections."""

    kind: str
    texts: int
    connections: int

    def __str__(self) -> str:
        what = "1 text" if self.texts == 1 else f"{self.texts} passages"
        return f"{what}, c={self.connections}"

    def bodies(self, server: Server) -> list[dict[str, object]]:
        """Returns different requests of this kind."""
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
    """One run of one scenario. Processor times are seconds per 1,000 texts; None: not known, or no
    answer came in time.
    """

    p50_ms: float | None
    p99_ms: float | None
    texts_s: float
    errors: int
    cpu_s: float | None
    rays_cpu_s: float | None
    generator_cpu_s: float


@cache
def _texts(kind: str) -> list[str]:
    files = find_model(MODEL, weights=False)
    return chosen(kind, FastTokenizer(files.spec, files.folder))


def measure(server: Server, scenario: Scenario, seconds: float) -> Measured:
    """Loads the server and returns what came of it."""
    bodies = scenario.bodies(server)
    server.settle()
    before = Usage.of(server.pid)
    found = wrk(server.url, bodies, scenario.connections, seconds)
    if not found.rate:
        return Measured(None, None, 0.0, found.errors, None, None, found.cpu_s)
    texts_s = found.rate * scenario.texts
    cpu = [
        None if spent is None else spent / (texts_s * seconds / 1_000)
        for spent in Usage.of(server.pid).since(before)
    ]
    return Measured(found.p50_s * 1e3, found.p99_s * 1e3, texts_s, found.errors, *cpu, found.cpu_s)


def run_once(start: Start, seconds: float) -> dict[Scenario, Measured]:
    """Starts a server, warms it up and measures every scenario."""
    with start() as server:
        for scenario in (SCENARIOS[-1], SCENARIOS[1]):
            server.settle()
            wrk(server.url, scenario.bodies(server), scenario.connections, min(seconds, 4))
        return {scenario: measure(server, scenario, seconds) for scenario in SCENARIOS}


@dataclass
class Results:
    """What each server did in each scenario, round by round, and why others took no part."""

    found: dict[str, dict[Scenario, list[Measured]]]
    missing: dict[str, str]

    def add(self, name: str, start: Start, seconds: float) -> None:
        """Runs a server for one round, unless it has failed before."""
        if name in self.missing:
            return
        try:
            measured = run_once(start, seconds)
        except Missing as reason:
            self.missing[name] = str(reason)
            self.found.pop(name, None)
            return
        for scenario, one in measured.items():
            self.found.setdefault(name, {}).setdefault(scenario, []).append(one)

    def values(self, name: str, scenario: Scenario, what: str) -> list[float]:
        """Returns one figure of each round; empty where it is not known."""
        values = [getattr(one, what) for one in self.found[name][scenario]]
        return [] if None in values else values

    def to_best_peer(self, scenario: Scenario) -> str:
        """Returns our latency (one connection) or rate, divided by the best peer's."""
        what, best = ("p50_ms", min) if scenario.connections == 1 else ("texts_s", max)
        figures = {n: self.values(n, scenario, what) for n in self.found}
        peers = {n: values for n, values in figures.items() if n not in OURS and any(values)}
        ours = [figures[name] for name in OURS if any(figures.get(name, ()))]
        if not peers or not ours:
            return "nothing to compare"
        name = best(peers, key=lambda peer: statistics.median(peers[peer]))
        theirs = statistics.median(peers[name])
        ratios = [f"{statistics.median(values) / theirs:.2f}" for values in ours]
        return f"{what.split('_')[0]} {', '.join(ratios)} × {name}"


def servers(args: argparse.Namespace) -> dict[str, Start]:
    """Returns how each server is started."""
    if args.infinity_url:
        peers: dict[str, Start] = {"Infinity": partial(elsewhere, args.infinity_url)}
    else:
        start = partial(infinity, args.infinity_folder)
        peers = {
            "Infinity, ONNX Runtime": partial(start, "optimum", "float32"),
            "Infinity, torch bf16": partial(start, "torch", "bfloat16"),
        }
    peers["FastAPI + sentence-transformers"] = plain_app
    wanted = tuple(args.peers)
    ours = dict(zip(OURS, (embedfleet, partial(embedfleet, threads=2)), strict=True))
    return {**ours, **{n: start for n, start in peers.items() if n.startswith(wanted)}}


def row(results: Results, scenario: Scenario, name: str) -> tuple[object, ...]:
    """Returns one line of the table."""
    digits = {"p50_ms": 1, "p99_ms": 1, "texts_s": 0, "cpu_s": 2, "rays_cpu_s": 2}
    figures = {what: results.values(name, scenario, what) for what in digits}
    cells = {what: spread(v, digits[what]) if v else "-" for what, v in figures.items()}
    errors = int(sum(results.values(name, scenario, "errors")))
    generator = f"{statistics.median(results.values(name, scenario, 'generator_cpu_s')):.2f}"
    speed = (cells["p50_ms"], cells["p99_ms"], cells["texts_s"])
    return (str(scenario), name, *speed, errors, cells["cpu_s"], cells["rays_cpu_s"], generator)


def chart(results: Results, args: argparse.Namespace) -> None:
    """Draws latency, texts a second and processor time, a column for each scenario."""
    figures = {"p50 ms (less is better)": ("p50_ms", 1), "texts/s": ("texts_s", 0)}
    figures["CPU s/1,000 texts (less is better)"] = ("cpu_s", 2)
    panels = [
        Panel(f"{scenario}: {words}", _bars(results, scenario, what), digits=digits)
        for words, (what, digits) in figures.items()
        for scenario in SCENARIOS
    ]
    note = f"{machine()}; medians of {args.rounds} rounds of {args.seconds:g} s, "
    draw("online", "all-MiniLM-L6-v2 over HTTP", panels, len(SCENARIOS), note + "least to most")


def _bars(results: Results, scenario: Scenario, what: str) -> dict[str, Sequence[float]]:
    bars = {name: results.values(name, scenario, what) for name in results.found}
    return {name: values for name, values in bars.items() if values}


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="one round of 3 seconds each")
    folder = REPOSITORY / "build" / "infinity"
    parser.add_argument("--infinity-folder", type=Path, default=folder)
    parser.add_argument("--infinity-url", help="an Infinity that runs, its model named m")
    parser.add_argument("--peers", nargs="*", default=[""], help="those whose names start so")
    args = parser.parse_args()
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
        [row(results, s, name) for s in SCENARIOS for name in results.found],
        raw={n: {str(s): list(map(asdict, f[s])) for s in f} for n, f in results.found.items()},
        **{str(s): results.to_best_peer(s) for s in SCENARIOS},
        took_no_part=results.missing,
    )
    chart(results, args)


if __name__ == "__main__":
    main()

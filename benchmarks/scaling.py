"""Autoscaling of a real service: a square wave, a ramp, a burst from zero, a job beside a ramp.

    python -m benchmarks.scaling

The service runs on this machine, with an engine that sleeps for each token instead of computing
(`testing/sleeping.py`), so that the speed of its replicas does not depend on the cores. This
measures the policy and Serve, not the engine.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray
from ray import serve

from benchmarks.common.charts import OTHER, OURS, SHADE, draw_lines, steps
from benchmarks.common.load import Load, OpenLoop, open_loop
from benchmarks.common.reporting import parser, percentile, report
from benchmarks.common.service import MODEL
from testing.encoding import command as encode_command
from testing.running import RunningService, running_service
from testing.sleeping import TOKENS_PER_S
from testing.waiting import until

DEPLOYMENT = f"encoder-{MODEL}"
TEXTS, WORDS = 2, 198  # and two special tokens a text
REQUEST_TOKENS = TEXTS * (WORDS + 2)
REPLICA = TOKENS_PER_S / REQUEST_TOKENS  # requests a second that keep one replica busy
SCALING = {
    "min_replicas": 0,
    "max_replicas": 5,
    "offline_max_replicas": 2,
    "offline_after_s": 4,
    "downscale_delay_s": 12,
    "downscale_to_zero_delay_s": 15,
}
BODY = {"model": MODEL, "input": [" ".join(["word"] * WORDS)] * TEXTS, "encoding_format": "base64"}
TIMEOUT_S = 180.0
WATCH_AFTER_S = 25.0  # once the load has ended
SAMPLE_EVERY_S = 0.25
HEADER = ("SCENARIO", "FIRST ADDED S", "FIRST ANSWER S", "MOST", "CHANGES", "REQUESTS", "REFUSED")


@dataclass(frozen=True)
class Scenario:
    """A load, second by second, in replicas' worth of work; ``edges`` is how often it jumps."""

    name: str
    course: Sequence[float]
    cold: bool = False
    job: bool = False
    edges: int | None = None


@dataclass(frozen=True)
class Sample:
    """Replicas at a time (seconds from the start of the watch): running, and in any state."""

    at: float
    running: int
    all: int


@dataclass
class Watch:
    """A context manager that samples one deployment's replicas in the background."""

    deployment: str
    samples: list[Sample] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._started = time.perf_counter()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            at = time.perf_counter() - self._started
            self.samples.append(Sample(at, *count_replicas(self.deployment)))

    @property
    def changes(self) -> int:
        """How often the number of replicas changed."""
        return sum(a.all != b.all for a, b in pairwise(self.samples))

    @property
    def replica_seconds(self) -> float:
        """The seconds of all replicas together, starting and stopping included."""
        return sum(a.all * (b.at - a.at) for a, b in pairwise(self.samples))

    def first_added_s(self) -> float:
        """Returns the seconds until one more replica runs than at the start; NaN for never."""
        base = self.samples[0].running
        return next((s.at for s in self.samples if s.running > base), float("nan"))


def count_replicas(deployment: str) -> tuple[int, int]:
    """Returns how many replicas run, and how many there are in any state."""
    states = serve.status().applications["embedfleet"].deployments[deployment].replica_states
    return states.get("RUNNING", 0), sum(states.values())


@dataclass(frozen=True)
class Played:
    """A scenario that was played: its requests, replicas, and the tokens of its corpus job."""

    scenario: Scenario
    loop: OpenLoop
    watch: Watch
    job_tokens: int


SCENARIOS = (
    Scenario("square wave", ([0.4] * 35 + [2.2] * 35) * 2 + [0.4] * 35, edges=4),
    Scenario("ramp", [3 * min(s, 90 - s) / 45 for s in range(90)]),
    Scenario("burst from zero", [2.0] * 40, cold=True),
    Scenario("corpus job beside a ramp", [3 * min(s, 90 - s) / 45 for s in range(90)], job=True),
)


def prepare(running: RunningService, cold: bool) -> None:
    """Waits until the model has no replica (``cold``), or one that is ready."""
    until(lambda: count_replicas(DEPLOYMENT) == (0, 0), TIMEOUT_S)
    if cold:
        return
    with running.client() as http:
        until(lambda: http.post("/v1/embeddings", json=BODY).is_success, TIMEOUT_S)
    until(lambda: count_replicas(DEPLOYMENT) == (1, 1), TIMEOUT_S)


class Job:
    """The command `embedfleet encode` on a corpus that outlasts the scenario."""

    def __init__(self, running: RunningService, folder: Path) -> None:
        self._output, corpus = folder / "vectors", folder / "corpus.jsonl"
        corpus.write_text(f"{json.dumps({'text': BODY['input'][0]})}\n" * 20_000)
        options = ["--model", MODEL, "--part-mb", "0.2"]
        line, environment = encode_command(running, corpus, self._output, *options)
        log = (folder / "job.log").open("wb")
        self._process = subprocess.Popen(line, stdout=log, stderr=log, env=environment)

    def stop(self) -> int:
        """Stops the command; returns the tokens of the rows that it has finished."""
        import pyarrow.parquet as pq

        self._process.terminate()
        self._process.wait(30)
        files = self._output.glob("*.parquet")
        rows = sum(int(pq.read_metadata(f).num_rows) for f in files)
        return rows * (WORDS + 2)


def play(running: RunningService, scenario: Scenario) -> Played:
    """Plays one scenario from the state that it needs."""
    print(f"{scenario.name} …", flush=True)
    prepare(running, scenario.cold)
    rates = [load * REPLICA for load in scenario.course]
    load = Load(f"{running.url}/v1/embeddings", [BODY], max(rates), len(rates), 20.0, course=rates)
    with tempfile.TemporaryDirectory() as folder, Watch(DEPLOYMENT) as watch:
        job = Job(running, Path(folder)) if scenario.job else None
        loop = open_loop(load)
        tokens = job.stop() if job else 0
        time.sleep(WATCH_AFTER_S)
    return Played(scenario, loop, watch, tokens)


def row(played: Played) -> tuple[object, ...]:
    """Returns one scenario's line of the table."""
    edges, latencies = played.scenario.edges, played.loop.latencies()
    work = len(latencies) * REQUEST_TOKENS + played.job_tokens
    least = work / TOKENS_PER_S
    refused = sum(played.loop.count(status) for status in (429, 503))
    answered = [o.due_s + o.latency_s for o in played.loop.outcomes if o.status == 200]
    return (
        played.scenario.name,
        f"{played.watch.first_added_s():.1f}",
        f"{min(answered, default=float('nan')):.1f}",
        max(sample.all for sample in played.watch.samples),
        f"{played.watch.changes}" + (f" (edges {edges})" if edges else ""),
        len(played.loop.outcomes),
        refused,
        len(played.loop.outcomes) - len(latencies) - refused,
        f"{percentile(latencies, 50):.2f}",
        f"{percentile(latencies, 99):.1f}",
        f"{played.watch.replica_seconds:.0f}",
        f"{played.watch.replica_seconds / least:.2f}",
    )


def draw(axes: Any, scenarios: Sequence[Played]) -> None:
    """Draws the replicas of every scenario over time."""
    for axis, played in zip(axes.flat, scenarios, strict=True):
        samples = played.watch.samples
        times = [sample.at for sample in samples]
        course = [*played.scenario.course, 0.0]
        seconds = range(len(course))
        axis.fill_between(
            seconds, course, step="post", color=SHADE, label="online work, in replicas"
        )
        steps(axis, times, [s.all for s in samples], "replicas in any state", OTHER)
        steps(axis, times, [s.running for s in samples], "replicas that run", OURS)
        axis.set_title(played.scenario.name, fontsize=9, loc="left")
        axis.set_ylim(0, 5.5)
    axes[0, 0].legend(fontsize=8, frameon=False, loc="upper left")
    for axis in axes[-1]:
        axis.set_xlabel("seconds", fontsize=8)


def main() -> None:
    """Prints the table and draws the chart."""
    parser("scaling", __doc__).parse_args()
    models = [{"name": MODEL, "replicas": SCALING, "token_budget": 1_024}]
    with running_service(models, [], app={"import_path": "testing.sleeping:build"}) as running:
        ray.init(running.ray_address, log_to_driver=False, logging_level="ERROR")
        scenarios = [play(running, scenario) for scenario in SCENARIOS]
    report(
        "scaling",
        (*HEADER, "OTHER ERRORS", "P50 S", "P99 S", "REPLICA-S", "TO LEAST"),
        [row(played) for played in scenarios],
        engine=f"sleeps, {TOKENS_PER_S:.0f} tokens/s a replica: the policy, not the engine",
    )
    draw_lines("scaling", 2, 2, 6.0, lambda axes: draw(axes, scenarios))


if __name__ == "__main__":
    main()

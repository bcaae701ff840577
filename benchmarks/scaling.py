"""Do replicas follow the load? Square wave, ramp, burst from zero, a corpus job beside a ramp.

    python -m benchmarks.scaling

A real service on this machine, whose engine sleeps for each token instead of computing
(`testing/sleeping.py`): the speed of its replicas does not depend on the cores. So this shows the
policy and Serve's part in it, not the engine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import line_plots
from benchmarks.harness import MODEL, percentile, report
from benchmarks.open_loop import Load, Loaded, run
from benchmarks.replicas import Watch, connect, count
from testing.disturbing import RAY_TOKEN
from testing.encoding import command
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
PATIENCE_S = 180.0
AFTER_S = 25.0  # of watching once the load has ended


@dataclass(frozen=True)
class Scenario:
    """A load in replicas' worth of work, second by second; ``edges`` where it jumps."""

    name: str
    course: Sequence[float]
    cold: bool = False
    job: bool = False
    edges: int | None = None


@dataclass(frozen=True)
class Seen:
    """What came of a scenario."""

    scenario: Scenario
    loaded: Loaded
    watch: Watch
    job_tokens: int


SCENARIOS = (
    Scenario("square wave", ([0.4] * 35 + [2.2] * 35) * 2 + [0.4] * 35, edges=4),
    Scenario("ramp", [3 * min(s, 90 - s) / 45 for s in range(90)]),
    Scenario("burst from zero", [2.0] * 40, cold=True),
    Scenario("corpus job beside a ramp", [3 * min(s, 90 - s) / 45 for s in range(90)], job=True),
)


def prepare(running: RunningService, cold: bool) -> None:
    """Brings the model to no replica, or to one that is ready."""
    until(lambda: count(DEPLOYMENT) == (0, 0), PATIENCE_S)
    if cold:
        return
    with running.client() as http:
        until(lambda: http.post("/v1/embeddings", json=BODY).is_success, PATIENCE_S)
    until(lambda: count(DEPLOYMENT) == (1, 1), PATIENCE_S)


class Job:
    """The command `embedfleet encode` at work on a corpus that outlasts the scenario."""

    def __init__(self, running: RunningService, folder: Path) -> None:
        self._output, corpus = folder / "vectors", folder / "corpus.jsonl"
        corpus.write_text(f"{json.dumps({'text': BODY['input'][0]})}\n" * 20_000)
        options = ["--model", MODEL, "--part-mb", "0.2"]
        line, environment = command(running, corpus, self._output, *options)
        log = (folder / "job.log").open("wb")
        self._process = subprocess.Popen(line, stdout=log, stderr=log, env=environment)

    def stop(self) -> int:
        """Ends the command; returns the tokens of the rows that it has finished."""
        import pyarrow.parquet as pq

        self._process.terminate()
        self._process.wait(30)
        files = [f for f in self._output.glob("**/*.parquet") if "_rejects" not in f.parts]
        return sum(pq.read_metadata(f).num_rows for f in files) * (WORDS + 2)


def play(running: RunningService, scenario: Scenario) -> Seen:
    """Runs one scenario from the state it asks for."""
    print(f"{scenario.name} …", flush=True)
    prepare(running, scenario.cold)
    rates = [load * REPLICA for load in scenario.course]
    load = Load(f"{running.url}/v1/embeddings", [BODY], max(rates), len(rates), 20.0, course=rates)
    with tempfile.TemporaryDirectory() as folder, Watch(DEPLOYMENT) as watch:
        job = Job(running, Path(folder)) if scenario.job else None
        loaded = run(load)
        tokens = job.stop() if job else 0
        time.sleep(AFTER_S)
    return Seen(scenario, loaded, watch, tokens)


def row(seen: Seen) -> tuple[object, ...]:
    """Returns one scenario's line of the table."""
    edges, late = seen.scenario.edges, seen.loaded.latencies()
    work = len(late) * REQUEST_TOKENS + seen.job_tokens
    least = work / TOKENS_PER_S
    refused = sum(seen.loaded.count(status) for status in (429, 503))
    answers = [o.due_s + o.latency_s for o in seen.loaded.outcomes if o.status == 200]
    return (
        seen.scenario.name,
        f"{seen.watch.first_added_s():.1f}",
        f"{min(answers, default=float('nan')):.1f}",
        max(sample.all for sample in seen.watch.samples),
        f"{seen.watch.changes}" + (f" (edges {edges})" if edges else ""),
        len(seen.loaded.outcomes),
        refused,
        len(seen.loaded.outcomes) - len(late) - refused,
        f"{percentile(late, 50):.2f}",
        f"{percentile(late, 99):.1f}",
        f"{seen.watch.replica_seconds:.0f}",
        f"{seen.watch.replica_seconds / least:.2f}",
    )


def draw(all_seen: Sequence[Seen]) -> None:
    """Draws the replicas of every scenario over time."""
    figure, axes = line_plots.panels(2, 2, height=6.0)
    for axis, seen in zip(axes.flat, all_seen, strict=True):
        times = [sample.at for sample in seen.watch.samples]
        course = [*seen.scenario.course, 0.0]
        axis.fill_between(
            range(len(course)),
            course,
            step="post",
            color="#dadce0",
            label="online work, in replicas",
        )
        line_plots.steps(
            axis, times, [s.all for s in seen.watch.samples], "replicas asked for", colour="other"
        )
        line_plots.steps(
            axis, times, [s.running for s in seen.watch.samples], "replicas that run", colour="ours"
        )
        axis.set_title(seen.scenario.name, fontsize=9, loc="left")
        axis.set_ylim(0, 5.5)
    axes[0, 0].legend(fontsize=8, frameon=False, loc="upper left")
    for axis in axes[-1]:
        axis.set_xlabel("seconds", fontsize=8)
    line_plots.save(figure, "scaling")


def main() -> None:
    """Prints the table and draws the plot."""
    if "RAY_AUTH_TOKEN" not in os.environ:  # Ray has looked for it by now
        again = [sys.executable, "-m", "benchmarks.scaling"]
        os.execve(sys.executable, again, {**os.environ, **RAY_TOKEN})
    models = [{"name": MODEL, "replicas": SCALING, "token_budget": 1_024}]
    with running_service(models, [], app={"import_path": "testing.sleeping:build"}) as running:
        connect(running)
        all_seen = [play(running, scenario) for scenario in SCENARIOS]
    report(
        "scaling",
        (
            "SCENARIO",
            "FIRST ADDED S",
            "FIRST ANSWER S",
            "MOST",
            "CHANGES",
            "REQUESTS",
            "REFUSED",
            "OTHER ERRORS",
            "P50 S",
            "P99 S",
            "REPLICA-S",
            "TO LEAST",
        ),
        [row(seen) for seen in all_seen],
        engine=f"sleeps, {TOKENS_PER_S:.0f} tokens/s a replica: the policy, not the engine",
    )
    draw(all_seen)


if __name__ == "__main__":
    main()

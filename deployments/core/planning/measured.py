"""What this project has measured, for plans. Dates, machines and commands are in `benchmarks/log`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """What a replica reached on one kind of hardware: tokens/s by the catalog's name of the model."""

    description: str
    tokens_per_s: dict[str, float]


# the engine alone, passages, two threads (docs/performance.md)
CARDS = {
    "cpu-amx": Card("2 cores of a Xeon with AMX", {"all-minilm-l6-v2": 45_400.0}),
    "cpu-bf16": Card("2 cores of an AMD EPYC with bfloat16", {"all-minilm-l6-v2": 14_100.0}),
    "cpu-avx2": Card("2 cores of an AMD EPYC with AVX2 only", {"all-minilm-l6-v2": 5_840.0}),
}
# what a corpus job reached of the engine alone, once connected: on the cores of the replica 0.73 to 0.78,
# with a core to itself 0.94 to 0.96 (2026-11-21, 2026-11-22, 2026-11-27)
EFFICIENCY = 0.75
JOB_START_S = 7.0  # of a corpus job's own, on two cores (2026-11-22)
# CPU-seconds per million tokens (docs/configuration.md, "How to size")
ROUTER_CPU_S, WORKER_CPU_S = 4.0, 1.7

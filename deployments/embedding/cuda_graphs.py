"""Short passes on a GPU as CUDA graphs: what is launched costs more there than what is computed.

A pass of a dozen texts launches some ten kernels a layer, each from Python, each shorter than its
launch. Recorded once and replayed, all of them are one launch. A graph's shapes are fixed, so a short
pass is filled up to the next of some sizes; texts change within it, by where each ends.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployments.embedding.layout import Layout

log = logging.getLogger(__name__)
# tokens; longer passes compute for longer than they take to launch
SIZES = (16, 32, 64, 128, 192, 256, 384, 512)
MOST_TEXTS = 64
_AGREES = 0.999  # cosine of each token's state with that of the plain pass

Run = Callable[[], Tensor]


# int64 ids and positions (tokens,) and `Places` -> (tokens, dimension)
Network = Callable[[Tensor, Tensor, Any], Tensor]


@dataclass(frozen=True)
class FixedPlaces:
    """`Places` whose tensor stays where it is, while the texts change."""

    ends: Tensor
    longest: int


class FixedPass:
    """The network for one number of tokens. Not thread-safe."""

    def __init__(
        self, network: Network, tokens: int, device: torch.device, record: Callable[[Run], Run]
    ) -> None:
        """``record`` returns what runs again what it is given, with what its inputs hold by then."""
        self._ids = torch.zeros(tokens, dtype=torch.int64, device=device)
        self._positions = torch.zeros_like(self._ids)
        self._ends = torch.full((MOST_TEXTS + 1,), tokens, dtype=torch.int32, device=device)
        self._ends[0] = 0
        places = FixedPlaces(self._ends, tokens)
        self._again = record(lambda: network(self._ids, self._positions, places))

    def __call__(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """As the network, for at most `MOST_TEXTS` texts; rows behind the last text are undefined."""
        self._ids.copy_(ids)
        self._positions.copy_(positions)
        ends = [0, *accumulate(layout.lengths)]
        ends += ends[-1:] * (MOST_TEXTS + 1 - len(ends))  # texts without a token
        self._ends.copy_(torch.from_numpy(np.array(ends, np.int32)))
        return self._again().clone()


class GraphedNetwork:
    """A network whose short passes are replayed. Thread-safe."""

    def __init__(
        self,
        network: Network,
        max_tokens: int,
        device: torch.device,
        record: Callable[[Run], Run] | None = None,
    ) -> None:
        """Records a pass of each size. One that cannot be recorded, or differs from the plain pass,
        stays plain, and the log says so. No text is longer than ``max_tokens``.
        """
        self._network = network
        self._lock = threading.Lock()
        self._passes = _recorded(network, max_tokens, device, record or _recorder(device))
        self._sizes = sorted(self._passes)

    def rounded(self, tokens: int) -> int:
        """Returns the number of tokens to give `__call__` for this many; zeros behind the last text."""
        place = bisect_left(self._sizes, tokens)
        return self._sizes[place] if place < len(self._sizes) else tokens

    def __call__(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """As the network; rows behind the last text are undefined."""
        found = self._passes.get(len(ids))
        if found is None or len(layout.lengths) > MOST_TEXTS:
            return self._network(ids, positions, layout)
        with self._lock:
            return found(ids, positions, layout)


def can_graph(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether attention is fused there: only that reads where texts end on the device."""
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)


@torch.inference_mode()
def _recorded(
    network: Network, max_tokens: int, device: torch.device, record: Callable[[Run], Run]
) -> dict[int, FixedPass]:
    found: dict[int, FixedPass] = {}
    for tokens in reversed(SIZES):  # the largest first: the others then fit its memory
        try:
            made = FixedPass(network, tokens, device, record)
            worst = _worst_cosine(network, made, min(tokens // 2, max_tokens), tokens, device)
        except RuntimeError as error:  # CUDA's errors are RuntimeErrors
            log.warning("passes of up to %d tokens are not recorded: %s", tokens, error)
            break
        if not worst >= _AGREES:  # what is no number does not agree either
            log.warning("a recorded pass of %d tokens is off (cosine %.4f)", tokens, worst)
            continue
        found[tokens] = made
    return found


def _worst_cosine(
    network: Network, made: FixedPass, longest: int, tokens: int, device: torch.device
) -> float:
    """Compares one pass of three texts, fewer tokens than its size, with the plain one."""
    lengths = [longest, max(1, longest // 2), 1]
    real = sum(lengths)
    ids, positions = torch.zeros(2, tokens, dtype=torch.int64, device=device)
    ids[:real] = 1 + torch.arange(real, device=device) % 7
    positions[:real] = torch.cat([torch.arange(n, device=device) for n in lengths])
    layout = Layout(lengths, device, torch.float32, causal=False)
    plain, again = (run(ids, positions, layout)[:real].float() for run in (network, made))
    return float(torch.cosine_similarity(plain, again).min())


def _recorder(device: torch.device) -> Callable[[Run], Run]:
    """Returns what records a run as a CUDA graph; all graphs share their memory.

    They may, since none runs beside another and what one returns is copied at once.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            _run_aside(run)
            with torch.cuda.graph(graph, pool=pool):
                states = run()

        def replay() -> Tensor:
            with torch.cuda.device(device):
                graph.replay()
            return states

        return replay

    return record


def _run_aside(run: Run, times: int = 3) -> None:
    """Runs on a stream of its own, as recording will: what is made on first use is not recorded."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(times):
            run()
    torch.cuda.current_stream().wait_stream(side)

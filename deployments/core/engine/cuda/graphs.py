"""Runs short passes on a GPU as CUDA graphs, since launching their kernels takes longer than computing.

A pass of a dozen texts launches some ten kernels per layer from Python, and each runs for less time than
its launch takes. Recorded once and replayed, they are a single launch. A recording has fixed shapes, so
a short pass is filled up to the next of some sizes. Where its texts end is an input, like their ids.
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from deployments.core.engine.layout import Layout

log = logging.getLogger(__name__)
SIZES = (16, 32, 64, 128, 192, 256, 384, 512)  # tokens
MOST_TEXTS = 64
_AGREES = 0.999  # cosine of each token's state with that of the plain pass
_TIMES = 5

Run = Callable[[], Tensor]
# int64 ids and positions (tokens,) and `Places` -> (tokens, dimension)
Network = Callable[[Tensor, Tensor, Any], Tensor]


@dataclass(frozen=True)
class FixedPlaces:
    """`Places` whose tensor keeps its address while the texts change."""

    ends: Tensor
    longest: int


@dataclass(frozen=True)
class Recorder:
    """Records a function's work on a device, and measures functions.

    ``record`` returns a function that repeats the work and returns the same tensor every time.
    ``seconds`` returns how long a function takes.
    """

    record: Callable[[Run], Run]
    seconds: Callable[[Run], float]


class FixedPass:
    """The network for one number of tokens. Not thread-safe."""

    def __init__(
        self, network: Network, tokens: int, device: torch.device, recorder: Recorder
    ) -> None:
        self._ids = torch.zeros(tokens, dtype=torch.int64, device=device)
        self._positions = torch.zeros_like(self._ids)
        self._ends = torch.full((MOST_TEXTS + 1,), tokens, dtype=torch.int32, device=device)
        self._ends[0] = 0
        places = FixedPlaces(self._ends, tokens)
        self._replay = recorder.record(lambda: network(self._ids, self._positions, places))

    def __call__(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """Runs the network on at most `MOST_TEXTS` texts; rows after the last text are undefined."""
        self._ids.copy_(ids)
        self._positions.copy_(positions)
        texts = len(layout.lengths)
        self._ends[: texts + 1].copy_(layout.ends)
        self._ends[texts + 1 :] = layout.ends[-1]  # the other texts have no tokens
        return self._replay().clone()


class GraphedNetwork:
    """A network that replays short passes where that is faster. Thread-safe.

    Its attention must be fused (`attention.can_fuse`).
    """

    def __init__(
        self,
        network: Network,
        max_tokens: int,
        device: torch.device,
        recorder: Recorder | None = None,
    ) -> None:
        """Records a pass of each size.

        If a pass cannot be recorded, differs from the plain one or is no faster, passes of that size
        stay plain, and the log says so. No text is longer than ``max_tokens``.
        """
        self._network = network
        self._lock = threading.Lock()
        self._passes = _recorded(network, max_tokens, device, recorder or _cuda(device))

    def rounded(self, tokens: int) -> int:
        """Returns the number of tokens that `__call__` takes for this many; zeros fill the rest."""
        size = _size_of(tokens)
        return size if size in self._passes else tokens

    def __call__(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """Runs the network; rows after the last text are undefined."""
        fixed = self._passes.get(len(ids))
        if fixed is None or len(layout.lengths) > MOST_TEXTS:
            return self._network(ids, positions, layout)
        with self._lock:
            return fixed(ids, positions, layout)


def _size_of(tokens: int) -> int | None:
    place = bisect_left(SIZES, tokens)
    return SIZES[place] if place < len(SIZES) else None


@torch.inference_mode()
def _recorded(
    network: Network, max_tokens: int, device: torch.device, recorder: Recorder
) -> dict[int, FixedPass]:
    passes: dict[int, FixedPass] = {}
    # the largest first: the others fit into its memory
    for smaller, tokens in reversed(list(pairwise((0, *SIZES)))):
        try:
            fixed = FixedPass(network, tokens, device, recorder)
            trial = _trial(3 * tokens // 4, tokens, max_tokens, device)
            shortest = [
                _trial(smaller + 1, size, max_tokens, device) for size in (smaller + 1, tokens)
            ]
            problem = _difference(network, fixed, trial) or _slowness(
                network, fixed, shortest, recorder
            )
        except RuntimeError as error:  # CUDA's errors are RuntimeErrors
            why = error.__context__ or error
            log.warning("passes of %d tokens and fewer are not recorded: %s", tokens, why)
            break
        if problem:
            log.warning("a pass of %d tokens is not recorded: %s", tokens, problem)
        else:
            passes[tokens] = fixed
    return passes


def _trial(
    tokens: int, size: int, max_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor, Layout]:
    """Returns a network's arguments: texts of about ``tokens`` tokens, filled up to ``size``."""
    longest = min(max_tokens, max(1, tokens // 2))
    lengths = ([longest] * (tokens // longest))[:MOST_TEXTS]
    ids, positions = torch.zeros(2, size, dtype=torch.int64, device=device)
    places = torch.cat([torch.arange(n, device=device) for n in lengths])
    positions[: len(places)] = places
    ids[: len(places)] = 1 + places % 2
    return ids, positions, Layout(lengths, device, torch.float32, causal=False)


def _difference(
    network: Network, fixed: FixedPass, trial: tuple[Tensor, Tensor, Layout]
) -> str | None:
    real = sum(trial[2].lengths)
    plain, replayed = (run(*trial)[:real].float() for run in (network, fixed))
    worst = float(torch.cosine_similarity(plain, replayed).min())
    # NaN does not agree either
    return None if worst >= _AGREES else f"it differs from the plain one, cosine {worst:.4f}"


def _slowness(
    network: Network,
    fixed: FixedPass,
    trials: Sequence[tuple[Tensor, Tensor, Layout]],
    recorder: Recorder,
) -> str | None:
    """Compares the fewest tokens that are filled up to a size with the same tokens in a plain pass."""
    runs: tuple[Network, Network] = (network, fixed)
    plain, replayed = (
        recorder.seconds(partial(run, *trial)) for run, trial in zip(runs, trials, strict=True)
    )
    if replayed <= plain:
        return None
    return f"filled up it takes {1e3 * replayed:.2f} ms, plain {1e3 * plain:.2f} ms"


def _cuda(device: torch.device) -> Recorder:
    """Returns a recorder of CUDA graphs that share their memory.

    They can share it because no two run at once, and each result is copied right away.
    """
    pool = torch.cuda.graph_pool_handle()
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    # all graphs are kept: one that is dropped frees cuBLAS' workspace of its stream, which the others
    # still write to (pytorch issue 193402)
    graphs: list[torch.cuda.CUDAGraph] = []

    def record(run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        place = len(graphs)
        graphs.append(graph)
        with _stream_kept(device):
            _run_aside(run, aside)
            # other threads may use the device meanwhile
            with torch.cuda.graph(
                graph, pool=pool, stream=aside, capture_error_mode="thread_local"
            ):
                states = run()

        def replay() -> Tensor:
            with torch.cuda.device(device):
                graphs[place].replay()
            return states

        return replay

    return Recorder(record, partial(_seconds, device))


@contextmanager
def _stream_kept(device: torch.device) -> Iterator[None]:
    """Makes the device current, and restores its stream afterwards, which a failed recording does not."""
    with torch.cuda.device(device):
        before = torch.cuda.current_stream()
        try:
            yield
        finally:
            torch.cuda.set_stream(before)


def _run_aside(run: Run, aside: torch.cuda.Stream) -> None:
    """Runs the work a few times, so that what is allocated on first use is not recorded."""
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)


def _seconds(device: torch.device, run: Run) -> float:
    """Returns the median duration of a few runs."""
    times = []
    for _ in range(_TIMES):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)

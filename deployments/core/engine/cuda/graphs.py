"""Short passes on a GPU as CUDA graphs: there, launching takes longer than computing.

A pass of a dozen texts launches some ten kernels a layer, each from Python, each shorter than its
launch. Recorded once and replayed, all of them are one launch. What is recorded has fixed shapes, so a
short pass is filled up to the next of some sizes; which texts it holds is an input like their ids.
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
    """`Places` whose tensor stays where it is, while the texts change."""

    ends: Tensor
    longest: int


@dataclass(frozen=True)
class Recorder:
    """``record`` returns a function that does the same again, and gives the same tensor each time.

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
        self._again = recorder.record(lambda: network(self._ids, self._positions, places))

    def __call__(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """As the network, for at most `MOST_TEXTS` texts; rows behind the last text are undefined."""
        self._ids.copy_(ids)
        self._positions.copy_(positions)
        texts = len(layout.lengths)
        self._ends[: texts + 1].copy_(layout.ends)
        self._ends[texts + 1 :] = layout.ends[-1]  # texts without a token
        return self._again().clone()


class GraphedNetwork:
    """A network whose short passes are replayed where that is faster. Thread-safe.

    Its attention must be fused: see `attention.can_fuse`.
    """

    def __init__(
        self,
        network: Network,
        max_tokens: int,
        device: torch.device,
        recorder: Recorder | None = None,
    ) -> None:
        """Records a pass of each size. One that cannot be recorded, differs from the plain pass or is
        no faster stays plain, and the log says so. No text is longer than ``max_tokens``.
        """
        self._network = network
        self._lock = threading.Lock()
        self._passes = _recorded(network, max_tokens, device, recorder or _cuda(device))

    def rounded(self, tokens: int) -> int:
        """Returns the number of tokens to give `__call__` for this many; zeros behind the last text."""
        size = _size_of(tokens)
        return size if size in self._passes else tokens

    def __call__(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """As the network; rows behind the last text are undefined."""
        found = self._passes.get(len(ids))
        if found is None or len(layout.lengths) > MOST_TEXTS:
            return self._network(ids, positions, layout)
        with self._lock:
            return found(ids, positions, layout)


def _size_of(tokens: int) -> int | None:
    place = bisect_left(SIZES, tokens)
    return SIZES[place] if place < len(SIZES) else None


@torch.inference_mode()
def _recorded(
    network: Network, max_tokens: int, device: torch.device, recorder: Recorder
) -> dict[int, FixedPass]:
    found: dict[int, FixedPass] = {}
    for smaller, tokens in reversed(list(pairwise((0, *SIZES)))):  # the others fit its memory
        try:
            made = FixedPass(network, tokens, device, recorder)
            problem = _difference(
                network, made, _trial(3 * tokens // 4, tokens, max_tokens, device)
            )
            least = [
                _trial(smaller + 1, size, max_tokens, device) for size in (smaller + 1, tokens)
            ]
            problem = problem or _slowness(network, made, least, recorder)
        except RuntimeError as error:  # CUDA's errors are RuntimeErrors
            why = error.__context__ or error
            log.warning("passes of %d tokens and fewer are not recorded: %s", tokens, why)
            break
        if problem:
            log.warning("a pass of %d tokens is not recorded: %s", tokens, problem)
        else:
            found[tokens] = made
    return found


def _trial(
    tokens: int, size: int, max_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor, Layout]:
    """Returns what a network takes: texts of about so many tokens, filled up to ``size``."""
    longest = min(max_tokens, max(1, tokens // 2))
    lengths = ([longest] * (tokens // longest))[:MOST_TEXTS]
    ids, positions = torch.zeros(2, size, dtype=torch.int64, device=device)
    places = torch.cat([torch.arange(n, device=device) for n in lengths])
    positions[: len(places)] = places
    ids[: len(places)] = 1 + places % 2
    return ids, positions, Layout(lengths, device, torch.float32, causal=False)


def _difference(
    network: Network, made: FixedPass, trial: tuple[Tensor, Tensor, Layout]
) -> str | None:
    real = sum(trial[2].lengths)
    plain, again = (run(*trial)[:real].float() for run in (network, made))
    worst = float(torch.cosine_similarity(plain, again).min())
    # what is no number does not agree either
    return None if worst >= _AGREES else f"it differs from the plain one, cosine {worst:.4f}"


def _slowness(
    network: Network,
    made: FixedPass,
    trials: Sequence[tuple[Tensor, Tensor, Layout]],
    recorder: Recorder,
) -> str | None:
    """Compares the fewest tokens that are filled up to a size with the same as they are."""
    runs: tuple[Network, Network] = (network, made)
    plain, again = (
        recorder.seconds(partial(run, *trial)) for run, trial in zip(runs, trials, strict=True)
    )
    if again <= plain:
        return None
    return f"filled up it takes {1e3 * again:.2f} ms, plain {1e3 * plain:.2f} ms"


def _cuda(device: torch.device) -> Recorder:
    """Records CUDA graphs, which share their memory.

    They may, since none runs beside another and what one returns is copied at once.
    """
    pool = torch.cuda.graph_pool_handle()
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    # a graph that is dropped takes cuBLAS' workspace of its stream along, to which the others write
    # (pytorch issue 193402): each keeps all of them
    graphs: list[torch.cuda.CUDAGraph] = []

    def record(run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        place = len(graphs)
        graphs.append(graph)
        with _stream_kept(device):
            _run_aside(run, aside)
            # other threads may go on with their own work on the device
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
    """Makes the device current, and the current stream again what it was: a failed recording does not."""
    with torch.cuda.device(device):
        before = torch.cuda.current_stream()
        try:
            yield
        finally:
            torch.cuda.set_stream(before)


def _run_aside(run: Run, aside: torch.cuda.Stream) -> None:
    """Makes what is made on first use, so that it is not recorded."""
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)


def _seconds(device: torch.device, run: Run) -> float:
    """Returns the median of some runs."""
    times = []
    for _ in range(_TIMES):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)

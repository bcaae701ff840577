"""``embedfleet bench``: how fast this machine encodes with a model, and whether its vectors are right.

It needs no service and does not start Ray. The engine is that of a replica, so the figures are what one
replica reaches without the way through HTTP.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from cluster.check import Target, target_of
from cluster.service.tables import table
from deployments.core.errors import EmbedfleetError

if TYPE_CHECKING:
    from deployments.core.engine.engine import TorchEngine
    from deployments.core.engine.speed import Speed
    from deployments.core.models.loading import ModelFiles

_PASSAGE = 128  # tokens
_MILLION = 1_000_000
_REFUSED, _NOTHING_MEASURED = 1, 2


@dataclass(frozen=True)
class Options:
    """``seconds`` is how long each length is measured. None for ``threads`` means all cores."""

    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    seconds: float = 3.0


@dataclass(frozen=True)
class Measured:
    """The figures of one length. ``share`` is the part of what matrix products alone allow, if known."""

    tokens_a_text: int
    texts_per_s: float
    tokens_per_s: float
    share: float | None


@dataclass(frozen=True)
class Report:
    """All that is printed, in the order of the JSON."""

    model: str
    device: str
    threads: int
    dtype: str
    path: str
    compared_with: str
    token_budget: int
    speeds: tuple[Measured, ...]


def bench(what: str, revision: str | None, options: Options, as_json: bool) -> int:
    """Measures a model, prints the report, and returns the exit status.

    0 means measured, 1 that the model is refused, 2 that there is no such model.
    """
    try:
        target = target_of(what, revision)
    except ValueError as error:
        return _fail(str(error), _NOTHING_MEASURED)
    try:
        report = _measured(target, options)
    except EmbedfleetError as error:
        return _fail(f"{target.source}: {error.message}", _REFUSED)
    print(json.dumps(asdict(report), indent=2) if as_json else _printed(report))
    return 0


def _measured(target: Target, options: Options) -> Report:
    from transformers.utils.logging import disable_progress_bar

    from deployments.core.checking.verdict import Engines, checked_engine
    from deployments.core.engine.calibration import calibrate
    from deployments.core.engine.cpu.cores import usable_cores
    from deployments.core.engine.device import choose_device, pass_sizes
    from deployments.core.engine.speed import measure_speeds
    from deployments.core.models.describing import described
    from deployments.core.models.loading import find_model

    disable_progress_bar()  # type: ignore[no-untyped-call]
    files = find_model(target.name, target.path, target.revision)
    description = described(files)
    device = choose_device(options.device)
    on_cpu = device.type == "cpu"
    threads = (options.threads or usable_cores()) if on_cpu else 1
    engines = Engines(description, files, options.device, options.dtype, threads=1)
    engine, verdict = checked_engine(engines)
    most = description.spec.max_tokens
    budget = calibrate(engine, pass_sizes(device), most, threads).token_budget
    bound = _Bound(engine, files, threads)
    speeds = measure_speeds(engine, most, budget, threads, options.seconds)
    return Report(
        model=target.source,
        device=_device_name(engine),
        threads=threads,
        dtype=str(engine.dtype).removeprefix("torch."),
        path=f"general, since {verdict.why_general}" if verdict.why_general else "fast",
        compared_with=verdict.compared_with,
        token_budget=budget,
        speeds=tuple(bound.compared(speed) for speed in speeds),
    )


class _Bound:
    """How fast the device could encode if it did nothing but the matrix products of the fast path."""

    def __init__(self, engine: TorchEngine, files: ModelFiles, threads: int) -> None:
        from deployments.core.engine.interface import Network
        from deployments.core.models.description import transformer_folder

        self._threads = threads
        folder = transformer_folder(files.folder)
        self._bound = None
        if engine.network is not Network.FAST or folder is None:
            return
        from transformers import AutoConfig

        from deployments.core.engine.matrix_rate import Bound

        config = AutoConfig.from_pretrained(folder)
        with self._all_threads():
            self._bound = Bound(config, engine.computes_in, engine.device)
            self._operations_per_s = self._bound.operations_per_s()

    def compared(self, speed: Speed) -> Measured:
        """Returns a length's figures with the share of the bound that they reach.

        The bound is measured again each time, and the best counts, since other work may slow it.
        """
        share = None
        if self._bound is not None:
            with self._all_threads():
                again = self._bound.operations_per_s()
            self._operations_per_s = max(self._operations_per_s, again)
            most = self._bound.tokens_per_s(speed.length, self._operations_per_s)
            share = round(speed.tokens_per_s / most, 3)
        rates = round(speed.texts_per_s, 1), round(speed.tokens_per_s, 1)
        return Measured(speed.length, *rates, share)

    @contextmanager
    def _all_threads(self) -> Iterator[None]:
        """Lets torch multiply with all threads, as the engine's passes together do."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _printed(report: Report) -> str:
    threads = f", {report.threads} threads" if report.device == "cpu" else ""
    header = ("TOKENS A TEXT", "TEXTS/S", "TOKENS/S", "OF THE MATRIX RATE")
    rows = [
        (
            speed.tokens_a_text,
            f"{speed.texts_per_s:,.0f}",
            f"{speed.tokens_per_s:,.0f}",
            None if speed.share is None else f"{speed.share:.0%}",
        )
        for speed in report.speeds
    ]
    return "\n".join(
        [
            f"{report.model} on {report.device}{threads}, {report.dtype}, {report.path} path",
            "",
            table(header, rows),
            "",
            f"The vectors are those of {report.compared_with}.",
            _conclusion(report.speeds),
        ]
    )


def _conclusion(speeds: tuple[Measured, ...]) -> str:
    """Returns how long a million passages take, at the speed of the length that is nearest to theirs."""
    nearest = min(speeds, key=lambda speed: abs(speed.tokens_a_text - _PASSAGE))
    hours = _MILLION / nearest.texts_per_s / 3600
    duration = f"{hours:,.1f} hours" if hours >= 1 else f"{hours * 60:,.1f} minutes"
    return (
        f"One replica takes {duration} for a million texts of {nearest.tokens_a_text} tokens, if nothing "
        "else uses this machine."
    )


def _device_name(engine: TorchEngine) -> str:
    import torch

    return "cpu" if engine.device.type == "cpu" else torch.cuda.get_device_name(engine.device)


def _fail(message: str, status: int) -> int:
    print(f"embedfleet: {message}", file=sys.stderr)
    return status

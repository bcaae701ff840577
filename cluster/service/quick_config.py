"""``embedfleet serve --model NAME``: the config file that it saves its user from writing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.corpus.settings import WORKER_CPUS
from deployments.core.models.catalog import by_name_or_repo, did_you_mean
from deployments.core.models.weights import is_hub_id

# where the driver is too old for torch, `device_count` alone counts the cards that it cannot use
_COUNT = "from torch import cuda; print(cuda.device_count() if cuda.is_available() else 0)"


@dataclass(frozen=True)
class Machine:
    """What there is to share out."""

    cores: int
    gpus: int


@dataclass(frozen=True)
class Options:
    """What may be said of all models together; None leaves it to the config's defaults."""

    dtype: str | None = None
    threads: int | str | None = None
    truncate: bool = False


_DEFAULTS = Options()


def as_yaml(
    models: Sequence[str], machine: Callable[[], Machine], options: Options = _DEFAULTS
) -> str:
    """Returns the text of a Serve config file of these models.

    Each is a name or hub id of the catalog's, another hub id, or a folder in sentence-transformers
    format; a folder named as in the catalog holds that model's weights. Raises ValueError for what
    is none of these, or cannot be served together, before it calls ``machine``, which takes seconds.
    """
    named = [_named(model) for model in models]
    names = [entry["name"] for entry in named]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--model: two models would be named {repeated[0]}; name them in a config")
    each = _place(len(models), machine())
    each |= {"dtype": options.dtype} if options.dtype else {}
    each |= {"threads": options.threads} if options.threads else {}
    app = {
        "name": "embedfleet",
        "import_path": "deployments.app:build",
        "route_prefix": "/",
        "args": {
            "models": [{**entry, **each} for entry in named],
            **({"truncate": True} if options.truncate else {}),
        },
    }
    # as in serve_config.yaml: a line a request costs more than the request
    logging = {"enable_access_log": False}
    return yaml.safe_dump({"logging_config": logging, "applications": [app]}, sort_keys=False)


def _named(model: str) -> dict[str, Any]:
    known = by_name_or_repo(model)
    if known and model.lower() == known.name.lower():
        return {"name": known.name}
    if folder := _folder(model):
        _refuse_empty(model, folder)
        return {"name": folder.name, "path": str(folder)}
    if known:
        return {"name": known.name}
    if not is_hub_id(model):
        raise ValueError(
            f"--model {model}: no folder is there, and it is neither a hub id (owner/name) nor of the "
            f"catalog{did_you_mean(model)}; `embedfleet models --catalog` lists it"
        )
    return {"name": model}


def _folder(model: str) -> Path | None:
    try:
        folder = Path(model).expanduser().resolve()
        return folder if model and folder.name and folder.is_dir() else None
    except (OSError, RuntimeError):  # too long, in a folder that may not be read, of no user
        return None


def _refuse_empty(model: str, folder: Path) -> None:
    """Raises ValueError for a folder that no replica could load."""
    # the catalog knows how its models pool
    needed = "config.json" if by_name_or_repo(folder.name) else "modules.json"
    if not (folder / needed).is_file():
        raise ValueError(
            f"--model {model}: {folder} has no {needed}, so it is no model in sentence-transformers "
            "format; save one there, or describe it in a config, with `path` and `pooling`"
        )


def _place(models: int, machine: Machine) -> dict[str, Any]:
    """Returns what each model takes: an equal share of the cores, and of a GPU where there are any."""
    # a corpus job has to start, too, and Ray Data's own tasks need a whole core
    others = 1.0 if machine.cores > 1 else WORKER_CPUS
    share = {"num_cpus": _share(models, machine.cores - others)}
    if not machine.gpus:
        return {**share, "threads": "auto"}
    return {**share, "num_gpus": _share(-(-models // machine.gpus), 1)}


def _share(models: int, of: float) -> float:
    """Returns the share that so many get, 1 at most, in hundredths."""
    return min(1.0, of * 100 // models / 100) or 0.01


def this_machine() -> Machine:
    """Counts what is here."""
    # in a process of its own: torch would stay in memory as long as the service runs
    found = subprocess.run(
        [sys.executable, "-c", _COUNT], stdout=subprocess.PIPE, text=True, check=True
    )
    return Machine(os.cpu_count() or 1, int(found.stdout))

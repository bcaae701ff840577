"""Whether Python imports embedfleet's own packages, or others of the same names.

A project may well have a folder `cluster` or `deployments`, and Python looks into the folder of the
script, or that in which it was started, before it looks where embedfleet is installed. Ray's workers look
into the folder in which their driver was started, too (`_py_driver_sys_path` in Ray 2.60).
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

_NAMES = ("cluster", "deployments")
_HOME = Path(__file__).resolve().parent.parent


class PackageHidden(ImportError):
    """Another package hides one that embedfleet is made of; the message says where it is."""


def check_own_packages(home: Path = _HOME) -> None:
    """Raises PackageHidden if this process, or a Ray worker of it, would import others of these names.

    ``home`` is the folder that holds embedfleet's packages.
    """
    here = Path.cwd()
    for name in _NAMES:
        for spec in (_imported_here(name), PathFinder.find_spec(name, [str(here), *sys.path])):
            if spec is not None and not _is_ours(other := _place(spec), home / name):
                raise PackageHidden(
                    f"{other} hides embedfleet's own package `{name}`: rename it, or start the program "
                    "in another folder",
                    name=name,
                )


def _imported_here(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # a module that was made by hand
        return None


def _is_ours(place: Path, ours: Path) -> bool:
    # a checkout beside the installed package, as after `pip install .`, is no stranger
    return place == ours or (place.parent / "embedfleet" / Path(__file__).name).is_file()


def _place(spec: ModuleSpec) -> Path:
    """Returns the folder of a package, or the file of a module."""
    folders = list(spec.submodule_search_locations or ())
    return Path(folders[0] if folders else spec.origin or "").resolve()

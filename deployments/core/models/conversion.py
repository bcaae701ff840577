"""Reads weights in PyTorch's older format once and keeps them as safetensors, which engines read.

The older format is a pickle. It is read with ``weights_only=True``, which runs no code of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from deployments.core.errors import ModelUnavailable, UnsupportedModel

_PATTERN = "pytorch_model*.bin"
# what to fetch of a repository that has no safetensors
OLD_WEIGHTS = (_PATTERN, f"*/{_PATTERN}")
_INDEX = "pytorch_model.bin.index.json"


def with_safetensors(folder: Path, source: str) -> Path:
    """Returns ``folder``, or a converted copy if some of its weights are in the older format only.

    The copy is kept in the model cache, by the weights' hash and the folder; its other files are links
    into the folder. Raises UnsupportedModel if there are no weights, or a file is more than weights;
    ModelUnavailable if the copy cannot be written.
    """
    old = [place for place in _places(folder) if _is_old(place)]
    if not old:
        if not has_safetensors(folder):
            raise UnsupportedModel(
                f"{source} has neither safetensors nor {_PATTERN}; save the model again with "
                "`safe_serialization=True`"
            )
        return folder
    converted = _cache() / _key(folder, [file for place in old for file in weight_files(place)])
    if not converted.is_dir():
        try:
            _convert(folder, old, converted)
        except OSError as error:
            raise ModelUnavailable(
                f"the weights of {source} cannot be converted in {converted.parent} ({error}); free disk "
                "space, or set HF_HOME to another folder"
            ) from error
    return converted


def has_safetensors(folder: Path) -> bool:
    """Whether a model's first module has weights that engines read.

    Its files are in the folder itself or in `0_…`; those of a Router in folders within.
    """
    patterns = (f"{inner}*.safetensors" for inner in ("", "0_*/", "0_*/*/"))
    return any(any(folder.glob(pattern)) for pattern in patterns)


def weight_files(place: Path) -> list[Path]:
    """Returns the files of weights in the older format."""
    return sorted(place.glob(_PATTERN))


def _places(folder: Path) -> list[Path]:
    """Returns the folder and those within it, outer ones first, without hidden ones."""
    inner = [path for path in folder.rglob("*") if path.is_dir()]
    hidden = [
        path for path in inner if any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    return [folder, *sorted(set(inner) - set(hidden))]


def _is_old(place: Path) -> bool:
    return bool(weight_files(place)) and not any(place.glob("*.safetensors"))


def _cache() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "embedfleet" / "safetensors"


def _key(folder: Path, weights: Iterable[Path]) -> str:
    """Returns a hash of the weights, and of what the copy links to.

    Folders may have the same weights and other settings, and the next revision of one has a folder of
    its own.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    digest = hashlib.sha256("\0".join([str(folder.resolve()), *names]).encode())
    for path in weights:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:40]


def _convert(folder: Path, old: list[Path], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent))
    work.chmod(0o755)
    try:
        for place in _places(folder):
            _fill(place, work / place.relative_to(folder), place in old)
        try:
            os.replace(work, target)
        except OSError:
            if not target.is_dir():  # another replica was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fill(place: Path, target: Path, is_old: bool) -> None:
    target.mkdir(exist_ok=True)
    for path in place.iterdir():
        if path.is_file() and not (is_old and path.name.startswith("pytorch_model")):
            (target / path.name).symlink_to(path.resolve())
    if not is_old:
        return
    for path in weight_files(place):
        _convert_file(path, target / _renamed(path.name))
    if (place / _INDEX).is_file():
        index = json.loads((place / _INDEX).read_text())
        index["weight_map"] = {key: _renamed(name) for key, name in index["weight_map"].items()}
        (target / _renamed(_INDEX)).write_text(json.dumps(index))


def _renamed(name: str) -> str:
    return name.replace("pytorch_model", "model").replace(".bin", ".safetensors")


def _convert_file(path: Path, target: Path) -> None:
    import torch
    from safetensors.torch import save_file

    try:
        # files of before PyTorch 1.6 are no archives and cannot be mapped
        mapped = zipfile.is_zipfile(path)
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise UnsupportedModel(f"{path} is not a file of weights alone: {error}") from error
    if not isinstance(weights, dict):
        raise UnsupportedModel(f"{path} holds a {type(weights).__name__}, not weights by name")
    # safetensors knows no shared memory, so tied weights become copies
    tensors = {key: value for key, value in weights.items() if torch.is_tensor(value)}
    copies = {key: value.contiguous().clone() for key, value in tensors.items()}
    save_file(copies, target, metadata={"format": "pt"})

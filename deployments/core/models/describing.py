"""Describes a model once for each set of files, in a process that may import transformers.

Routers and corpus workers have no use for transformers and torch, which take seconds and hundreds of
megabytes to import. So a child process describes the model for them, unless the result is on disk.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

from deployments.core.errors import ModelUnavailable, UnsupportedModel
from deployments.core.models.cache import cache_key, one_at_a_time, read_cached, write_cached
from deployments.core.models.description import Description, describe
from deployments.core.models.loading import ModelFiles
from deployments.core.models.local_format import settings_hash
from deployments.core.models.spec import SpecialTokens

_KIND = "descriptions"
_TIMEOUT_S = 300.0  # a busy machine takes half a minute to import transformers


def described(files: ModelFiles) -> Description:
    """Returns the description of a model's files; blocks for seconds when they are seen first.

    Raises UnsupportedModel as `describe`, ModelUnavailable if the child process fails.
    """
    key = cache_key(
        files=settings_hash(files.folder),
        lowercase=files.spec.lowercase,
        special_tokens=repr(files.spec.special_tokens),
    )
    content = read_cached(_KIND, key)
    if content is None or "tokenizer" not in content:
        # all routers and replicas of a node start at once, and one child is enough
        with one_at_a_time(_KIND, key):
            content = read_cached(_KIND, key)
            if content is None or "tokenizer" not in content:
                content = _made(files) if "transformers" in sys.modules else _made_by_child(files)
                write_cached(_KIND, key, content)
    return _parsed(files, content)


def _made(files: ModelFiles) -> dict[str, Any]:
    description = describe(files.spec, files.folder)
    special = description.spec.special_tokens
    return {
        "tokenizer": description.tokenizer,
        "special_tokens": None if special is None else [special.first, special.last],
        "not_fast": description.not_fast,
    }


def _parsed(files: ModelFiles, content: dict[str, Any]) -> Description:
    special = content["special_tokens"]
    tokens = None if special is None else SpecialTokens(*(tuple(ids) for ids in special))
    spec = replace(files.spec, special_tokens=tokens)
    return Description(spec, content["tokenizer"], content["not_fast"])


def _made_by_child(files: ModelFiles) -> dict[str, Any]:
    name = files.spec.name
    try:
        child = subprocess.run(
            [sys.executable, "-m", __name__],
            input=pickle.dumps(files),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelUnavailable(f"{name}: no description within {_TIMEOUT_S:.0f} s") from error
    except (OSError, subprocess.CalledProcessError) as error:
        stderr = getattr(error, "stderr", None) or b""
        reason = stderr.decode(errors="replace").strip().rpartition("\n")[2] or str(error)
        raise ModelUnavailable(f"{name} cannot be described: {reason}") from error
    content: dict[str, Any] = json.loads(child.stdout)
    if "unsupported" in content:
        raise UnsupportedModel(content["unsupported"])
    return content


def _answer(files: ModelFiles) -> dict[str, Any]:
    try:
        return _made(files)
    except UnsupportedModel as error:
        return {"unsupported": error.message}


def main() -> None:
    """Reads pickled `ModelFiles` from standard input, and writes the description as JSON."""
    answer = sys.stdout
    sys.stdout = sys.stderr  # libraries may print
    json.dump(_answer(pickle.load(sys.stdin.buffer)), answer)


if __name__ == "__main__":
    main()

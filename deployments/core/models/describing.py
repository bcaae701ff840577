"""Describes a model once for each set of files, in a process that may import transformers.

Routers and corpus workers have no use for transformers and torch, which take seconds and hundreds of
megabytes to import. So a child process describes the model for them, unless the result is on disk.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from deployments.core.errors import ModelUnavailable, UnsupportedModel
from deployments.core.models.cache import cache_key, one_at_a_time, read_cached, write_cached
from deployments.core.models.description import Description, describe
from deployments.core.models.loading import ModelFiles
from deployments.core.models.local_format import settings_hash
from deployments.core.models.spec import PairTokens, SpecialTokens

_KIND = "descriptions"
_TIMEOUT_S = 300.0  # a busy machine takes half a minute to import transformers


def described(files: ModelFiles) -> Description:
    """Returns the description of a model's files; blocks for seconds when they are seen first.

    Raises UnsupportedModel as `describe`, ModelUnavailable if the child process fails.
    """
    key = cache_key(
        files=settings_hash(files.folder),
        kind=files.spec.kind,
        question=repr(files.spec.question),
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
    special, pair = description.spec.special_tokens, description.spec.pair_tokens
    return {
        "tokenizer": description.tokenizer,
        "special_tokens": None if special is None else [special.first, special.last],
        "pair_tokens": pair and asdict(pair),
        "answer_tokens": description.spec.answer_tokens,
        "not_fast": description.not_fast,
    }


def _parsed(files: ModelFiles, content: dict[str, Any]) -> Description:
    special, pair = content["special_tokens"], content["pair_tokens"]
    tokens = None if special is None else SpecialTokens(*(tuple(ids) for ids in special))
    answers = content["answer_tokens"]
    spec = replace(
        files.spec,
        special_tokens=tokens,
        pair_tokens=pair and _pair(**pair),
        answer_tokens=answers and (answers[0], answers[1]),
    )
    return Description(spec, content["tokenizer"], content["not_fast"])


def _pair(first: list[int], between: list[int], last: list[int], second_type: int) -> PairTokens:
    return PairTokens(tuple(first), tuple(between), tuple(last), second_type)


def _made_by_child(files: ModelFiles) -> dict[str, Any]:
    content = _describer.answer(files)
    if "unsupported" in content:
        raise UnsupportedModel(content["unsupported"])
    if "failure" in content:
        raise ModelUnavailable(f"{files.spec.name} cannot be described: {content['failure']}")
    return content


class _Describer:
    """A child process that has transformers, for as long as any thread waits for it.

    When a service starts, all its models are described at once. The import takes longer than that.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._child: _Child | None = None

    def answer(self, files: ModelFiles) -> dict[str, Any]:
        """Returns the child's answer. Raises ModelUnavailable if there is none."""
        with self._counting:
            self._waiting += 1
        try:
            with self._turn:
                self._child = self._child or _Child()
                try:
                    return self._child.answer(files)
                except ModelUnavailable:
                    self._child = None  # before the next one in turn would ask it
                    raise
        finally:
            with self._counting:
                self._waiting -= 1
                if not self._waiting and self._child is not None:
                    self._child.end()
                    self._child = None


class _Child:
    """One such process. It reads pickled `ModelFiles`, and writes a line of JSON for each."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def answer(self, files: ModelFiles) -> dict[str, Any]:
        """Raises ModelUnavailable if the process ends or takes too long, after which it is of no use."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        too_late = threading.Timer(_TIMEOUT_S, self._process.kill)
        too_late.start()
        try:
            self._process.stdin.write(pickle.dumps(files))
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = b""
        too_late.cancel()
        if not line:
            raise ModelUnavailable(f"{files.spec.name} cannot be described: {self._last_words()}")
        content: dict[str, Any] = json.loads(line)
        return content

    def _last_words(self) -> str:
        self.end()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        return words or f"the process for it ended with {self._process.returncode}"

    def end(self) -> None:
        """Lets the process go, which ends with its input."""
        self._process.communicate()


_describer = _Describer()


def _answer(files: ModelFiles) -> dict[str, Any]:
    try:
        return _made(files)
    except UnsupportedModel as error:
        return {"unsupported": error.message}
    except Exception as error:
        return {"failure": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answers what comes on standard input, until that ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries may print
    with suppress(EOFError):
        while True:
            print(json.dumps(_answer(pickle.load(sys.stdin.buffer))), file=answers, flush=True)


if __name__ == "__main__":
    main()

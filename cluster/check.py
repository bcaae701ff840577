"""``embedfleet check``: whether a config is valid, or what would be served of a model, without a service.

A model is checked by its tokenizer and configuration files, so its weights need not be here. If they are
wanted, its vectors are compared with sentence-transformers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.core.errors import EmbedfleetError
from deployments.core.models.catalog import by_name_or_repo, did_you_mean, refusal
from deployments.core.models.weights import is_hub_id

if TYPE_CHECKING:
    from deployments.core.models.description import Description
    from deployments.core.models.loading import ModelFiles
    from deployments.core.models.spec import ModelSpec

_CONFIGS = (".yaml", ".yml")
_REFUSED, _NOTHING_CHECKED = 1, 2
_PASS_TOKENS = 32_768  # the largest token budget of a GPU
_MANY = 8

Fact = tuple[str, object]


@dataclass(frozen=True)
class Target:
    """A model as a config would name it."""

    name: str
    path: str | None = None
    revision: str | None = None

    @property
    def source(self) -> str:
        """What the user called it."""
        return self.path or self.name


def check(what: str, revision: str | None = None, weights: bool = False) -> int:
    """Checks a config file or a model, prints what is known of it, and returns the exit status.

    With ``weights`` the model is loaded and compared with sentence-transformers.
    0 means valid or supported, 1 that the model is refused, 2 that nothing could be checked.
    """
    try:
        if Path(what).suffix in _CONFIGS or Path(what).is_file():
            if weights:
                raise ValueError(f"--weights is for models, and {what} is a config")
            return _check_config(Path(what))
        target = target_of(what, revision)
    except ValueError as error:
        return _fail(str(error), _NOTHING_CHECKED)
    return _check_model(target, weights)


def target_of(what: str, revision: str | None = None) -> Target:
    """Returns the model that is meant: one in a folder, of the catalog, or on the hub.

    A folder that is named as in the catalog holds that model's weights. Raises ValueError, with the fix,
    if ``what`` is none of these.
    """
    folder = Path(what).expanduser()
    if what and folder.is_dir():  # an empty path would be this folder
        return Target(folder.resolve().name, str(folder.resolve()), revision)
    if (known := by_name_or_repo(what)) is not None:
        return Target(known.name, None, revision)
    if is_hub_id(what):
        return Target(what, None, revision)
    raise ValueError(
        f"{what!r} is no file or folder, no hub id (owner/name), and not in the catalog"
        f"{did_you_mean(what)}; `embedfleet models --catalog` lists it"
    )


def _check_config(file: Path) -> int:
    from cluster.service.config_file import ConfigError, read_config, require_keys_files

    try:
        ingress = read_config(file)
        require_keys_files(ingress)
    except ConfigError as error:
        return _fail(str(error), _NOTHING_CHECKED)
    names = ", ".join(ingress.models) or "none of ours"
    print(f"{file} is valid. Models: {names}")
    for keys_file in ingress.keys_files:
        print(f"{keys_file} is valid")
    return 0


def _check_model(target: Target, weights: bool) -> int:
    if reason := refusal(target.source):
        return _fail(f"{target.source} is not supported: {reason}", _REFUSED)
    from deployments.core.models.describing import described
    from deployments.core.models.loading import find_model

    try:
        files = find_model(target.name, target.path, target.revision, weights=weights)
        description = described(files)
        path = _compared(files, description) if weights else _path(files, description)
        costs = _costs(files.folder)
    except EmbedfleetError as error:
        if known := by_name_or_repo(target.name):
            print(_printed(target, _says(known)))
        return _fail(f"{target.source}: {error.message}", _REFUSED)
    spec = description.spec
    facts = [("status", "supported"), *path, *_says(spec), *costs]
    print(_printed(target, [*facts, *(("notice", notice) for notice in spec.notices)]))
    return 0


def _path(files: ModelFiles, description: Description) -> list[Fact]:
    """Returns the path that the files allow; the comparison at load decides."""
    from deployments.core.engine.backbones import why_not_fast

    return [_path_fact(description.not_fast or why_not_fast(description.spec, files.folder))]


def _compared(files: ModelFiles, description: Description) -> list[Fact]:
    """Loads the weights, and returns the path on which they give sentence-transformers' vectors.

    Raises UnsupportedModel if there is none.
    """
    from deployments.core.checking.verdict import Engines, checked_engine

    _, verdict = checked_engine(Engines(description, files))
    same = f"token ids and vectors are those of {verdict.compared_with}"
    return [_path_fact(verdict.why_general), ("comparison", same)]


def _path_fact(why_general: str | None) -> Fact:
    return "path", f"general, since {why_general}" if why_general else "fast: no padding"


def _says(spec: ModelSpec) -> list[Fact]:
    """Returns what is known of a model before its weights are read."""
    from deployments.core.models.prompts import templates
    from deployments.core.models.space import space_id
    from deployments.core.models.spec import Kind

    if spec.kind is Kind.RERANKER:
        return _says_of_reranker(spec)
    prompts = templates(spec.prompts)
    facts: list[Fact] = [
        ("files", f"{spec.repo} at {spec.revision}"),
        ("network", spec.backbone),
        ("vectors", _vectors_of(spec)),
        ("a query reads", _quoted(prompts.query)),
        ("a document reads", _quoted(prompts.document)),
        (
            "limit",
            f"{spec.max_tokens} tokens, cut on the {spec.truncation_side} if a caller allows it",
        ),
        ("languages", _languages(spec.languages)),
        ("licence", spec.licence),
        ("space", space_id(spec)),
    ]
    if prompts.instruction:
        facts.insert(5, ("default instruction", _quoted(prompts.instruction)))
    return facts


def _vectors_of(spec: ModelSpec) -> str:
    from deployments.core.models.spec import Kind

    if spec.kind is Kind.SPARSE:
        return f"sparse: weights of up to {spec.dimension} tokens"
    return f"{spec.dimension_choice} dimensions{', length 1' if spec.normalize else ''}"


def _says_of_reranker(spec: ModelSpec) -> list[Fact]:
    return [
        ("files", f"{spec.repo} at {spec.revision}"),
        ("network", spec.backbone),
        ("scores", f"of pairs of texts, the logits by {spec.activation}"),
        ("limit", f"{spec.max_tokens} tokens for a query and a document together"),
        ("languages", _languages(spec.languages)),
        ("licence", spec.licence),
    ]


def _costs(folder: Path) -> list[Fact]:
    from deployments.core.models.description import transformer_folder
    from deployments.core.models.parameters import cost_of

    transformer = transformer_folder(folder)
    if transformer is None:  # a table of vectors alone
        return []
    cost = cost_of(transformer)
    whole, half = cost.weights_gb(4), cost.weights_gb(2)
    facts: list[Fact] = [
        ("weights", f"{half:.2f} GB in half precision, {whole:.2f} GB in float32"),
    ]
    if cost.bytes_per_token is not None:
        gigabytes = cost.bytes_per_token * _PASS_TOKENS / 1e9
        facts.append(("a pass", f"{gigabytes:.1f} GB for {_PASS_TOKENS:,} tokens on a GPU"))
    return facts


def _languages(codes: tuple[str, ...]) -> str:
    if not codes:
        return "not stated"
    return " ".join(codes) if len(codes) <= _MANY else f"{len(codes)}: {' '.join(codes)}"


def _quoted(text: str | None) -> str:
    return json.dumps(text, ensure_ascii=False)


def _printed(target: Target, facts: list[Fact]) -> str:
    width = max(len(name) for name, _ in facts)
    return "\n".join([target.source, *(f"  {name.ljust(width)}  {value}" for name, value in facts)])


def _fail(message: str, status: int) -> int:
    print(f"embedfleet: {message}", file=sys.stderr)
    return status

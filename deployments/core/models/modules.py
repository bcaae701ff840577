"""The modules of a model in sentence-transformers format, as its ``modules.json`` lists them."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.core.errors import UnsupportedModel
from deployments.core.models.spec import Pooling, Role

_LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST_TOKEN}
# what reads texts, not token ids, or gives more than one vector a text
_UNSUPPORTED = frozenset({"WordEmbeddings", "BoW", "CLIPModel", "MultiVectorMask"})
_ROUTERS = frozenset({"Router", "Asym"})  # two names of one class
_TRANSFORMERS = frozenset({"Transformer", "MLMTransformer"})
_INPUTS = _TRANSFORMERS | {"StaticEmbedding"}


@dataclass(frozen=True)
class Module:
    """One line of ``modules.json``: the class's name, and the folder of its files.

    ``type`` is the class's full name, ``path`` the folder within the model's, and ``wants`` are the
    arguments of an encoding that the module takes.
    """

    kind: str
    folder: Path
    type: str = ""
    path: str = ""
    wants: tuple[str, ...] = ()

    @property
    def is_own(self) -> bool:
        """Whether it is a class of sentence-transformers, and no code of the model's repository."""
        return not self.type or self.type.startswith("sentence_transformers.")


def listed_modules(model_dir: Path) -> tuple[Module, ...]:
    """Returns the modules of ``modules.json`` as they are; a Transformer alone if there is no such file.

    Raises UnsupportedModel if the file is broken.
    """
    path = model_dir / "modules.json"
    if not path.is_file():
        return (Module("Transformer", model_dir),)
    lines = read_json(path)
    if not isinstance(lines, list) or not lines:
        raise UnsupportedModel(
            f"{path} lists no modules; save the model with sentence-transformers"
        )
    return tuple(_module(model_dir, line) for line in lines)


def _module(model_dir: Path, line: Any) -> Module:
    line = line if isinstance(line, dict) else {"type": "nothing"}
    return _module_of(
        model_dir, str(line.get("type")), str(line.get("path", "")), tuple(line.get("kwargs") or ())
    )


def _module_of(model_dir: Path, name: str, path: str, wants: tuple[str, ...] = ()) -> Module:
    return Module(name.rsplit(".", 1)[-1], model_dir / path, name, path, wants)


def read_modules(model_dir: Path) -> tuple[Module, ...]:
    """Returns a model's modules, input first.

    Raises UnsupportedModel if ``modules.json`` is missing or broken, or names a class that is not
    sentence-transformers' own or that is not supported.
    """
    path = model_dir / "modules.json"
    read_json(path)  # raises if there is none
    modules = listed_modules(model_dir)
    for module in modules:
        _refuse_unsupported(path, module)
    for role in Role:
        first, *_ = route(modules, role)
        if first.kind not in _INPUTS:
            raise UnsupportedModel(
                f"{path} begins with a {first.kind} module, not with a Transformer; save the model with "
                "sentence-transformers"
            )
    return modules


def _refuse_unsupported(path: Path, module: Module) -> None:
    if not module.is_own:
        raise UnsupportedModel(
            f"{path} needs {module.type}, which is code from the model's repository; such code is never "
            "run"
        )
    if module.kind in _UNSUPPORTED:
        raise UnsupportedModel(
            f"{path} has a {module.kind} module ({module.type}), which is not supported"
        )


def route(modules: Sequence[Module], role: Role) -> tuple[Module, ...]:
    """Returns the modules that texts of this role pass: a Router stands for those of its route.

    Raises UnsupportedModel if a Router has no route for the role, or its route cannot be read.
    """
    passed: list[Module] = []
    for module in modules:
        passed += _inside(module, role) if module.kind in _ROUTERS else [module]
    return tuple(passed)


def _inside(router: Module, role: Role) -> tuple[Module, ...]:
    paths = [router.folder / name for name in ("router_config.json", "config.json")]
    path = next((path for path in paths if path.is_file()), paths[0])
    config = read_json(path)
    try:
        types, names = config["types"], config["structure"][_route_name(config, role)]
        inner = [_module_of(router.folder, str(types[name]), name) for name in names]
    except (KeyError, TypeError, AttributeError, ValueError, SyntaxError) as error:
        raise UnsupportedModel(
            f"{path} has no route for a {role}, or one that cannot be read ({error!r}); save the model "
            "with routes named query and document"
        ) from error
    for module in inner:
        _refuse_unsupported(path, module)
    return route(inner, role)


def _route_name(config: dict[str, Any], role: Role) -> str:
    """Returns the route of texts of a role, by the rules of sentence-transformers' Router."""
    stated = (config.get("parameters") or {}).get("route_mappings") or {}
    mappings = {ast.literal_eval(key): str(name) for key, name in stated.items()}
    for key in ((role.value, "text"), (role.value, None), (None, "text"), (None, None)):
        if key in mappings:
            return mappings[key]
    return role.value if role.value in config["structure"] else "text"


def routes_differ(modules: Sequence[Module]) -> bool:
    """Whether queries pass other modules than documents."""
    return route(modules, Role.QUERY) != route(modules, Role.DOCUMENT)


def needs_prompts(modules: Sequence[Module]) -> bool:
    """Whether a text's vector depends on its role, or on where its prompt ends."""
    inside = {module for role in Role for module in route(modules, role)}
    leaves_out = any(m.kind == "Pooling" and not pools_prompt(m) for m in inside)
    takes_task = any("task" in m.wants or m.kind in _ROUTERS for m in modules)
    return leaves_out or takes_task


def pools_prompt(pooling: Module) -> bool:
    """Whether a Pooling module pools the tokens of the prompt too."""
    return read_json(pooling.folder / "config.json").get("include_prompt", True) is not False


def transformer_of(modules: Sequence[Module], role: Role = Role.DOCUMENT) -> Path | None:
    """Returns the folder of the Transformer that reads texts of a role; None for a StaticEmbedding."""
    first = route(modules, role)[0]
    return first.folder if first.kind in _TRANSFORMERS else None


def pooling_modes(module: Module) -> list[str]:
    """Returns the modes of a Pooling module, in sentence-transformers' words and order.

    Raises UnsupportedModel for one that is not known.
    """
    path = module.folder / "config.json"
    config = read_json(path)
    legacy = [mode for key, mode in _LEGACY_POOLING.items() if config.get(key)]
    stated = config.get("pooling_mode", legacy or "mean")
    modes = [stated] if isinstance(stated, str) else list(stated)
    if unknown := [mode for mode in modes if mode not in _LEGACY_POOLING.values()]:
        known = ", ".join(_LEGACY_POOLING.values())
        raise UnsupportedModel(f"{path} sets pooling {unknown[0]}; supported are {known}")
    return modes


def plain_pooling(modules: Sequence[Module]) -> Pooling | None:
    """Returns how a model pools that does nothing but pool and normalise; None if it does more."""
    kinds = [module.kind for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return None
    return pooling_of(modules[1]) if pools_prompt(modules[1]) else None


def pooling_of(module: Module) -> Pooling | None:
    """Returns how a Pooling module pools; None if `Pooling` has no name for it.

    Raises UnsupportedModel for a mode that is not known.
    """
    modes = pooling_modes(module)
    return _POOLING.get(modes[0]) if len(modes) == 1 else None


def normalizes(modules: Sequence[Module]) -> bool:
    """Whether the last thing that a model does is to normalise a text's vector."""
    last = modules[-1]
    settings = read_optional_json(last.folder / "config.json") if last.kind == "Normalize" else {}
    names = {settings.get(key) for key in ("module_input_name", "module_output_name")}
    return last.kind == "Normalize" and names <= {None, "sentence_embedding"}


def output_dimension(modules: Sequence[Module]) -> int:
    """Returns the dimension of a text's vector.

    Raises UnsupportedModel if the files do not say it, or it is another one for queries.
    """
    dimension, of_queries = (
        _dimension(route(modules, role)) for role in (Role.DOCUMENT, Role.QUERY)
    )
    if dimension is None or of_queries is None:
        raise UnsupportedModel(
            f"{modules[0].folder} has no Pooling module, so nothing makes one vector of a text's tokens; "
            "add one with sentence-transformers"
        )
    if dimension != of_queries:
        raise UnsupportedModel(
            f"{modules[0].folder}: queries get {of_queries} dimensions and documents {dimension}, so "
            "their vectors cannot be compared"
        )
    return dimension


def _dimension(modules: Sequence[Module]) -> int | None:
    dimension: int | None = None
    for module in modules:
        if module.kind == "StaticEmbedding":
            dimension = _static_dimension(module)
        elif module.kind == "Pooling":
            dimension = _pooled_dimension(module)
        elif module.kind == "Dense" and _makes_text_vector(module):
            dimension = _integer(module, "out_features")
    return dimension


def _makes_text_vector(dense: Module) -> bool:
    config = read_json(dense.folder / "config.json")
    output = config.get("module_output_name") or config.get("module_input_name")
    return output in (None, "sentence_embedding")


def _pooled_dimension(pooling: Module) -> int:
    path = pooling.folder / "config.json"
    config = read_json(path)
    dimension = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if not isinstance(dimension, int):
        raise UnsupportedModel(f"{path} lacks word_embedding_dimension, an integer")
    return dimension * len(pooling_modes(pooling))


def _static_dimension(module: Module) -> int:
    path = module.folder / "model.safetensors"
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return int(header["embedding.weight"]["shape"][1])
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UnsupportedModel(
            f"{path} has no embedding.weight, so the model's dimension is not known ({error})"
        ) from error


def _integer(module: Module, key: str) -> int:
    path = module.folder / "config.json"
    value = read_json(path).get(key)
    if not isinstance(value, int):
        raise UnsupportedModel(f"{path} lacks {key}, an integer")
    return value


def read_json(path: Path) -> Any:
    """Returns a JSON file's content. Raises UnsupportedModel if it is missing or broken."""
    if not path.is_file():
        raise UnsupportedModel(f"{path} is missing; save the model with sentence-transformers")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UnsupportedModel(f"{path} is not valid JSON: {error}") from error


def read_optional_json(path: Path) -> dict[str, Any]:
    """Returns a JSON file's object; an empty one if the file is missing or holds something else."""
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}

"""A model's own modules, loaded by sentence-transformers: what the general path runs.

Only classes of sentence-transformers are loaded, unless remote code is trusted. Weights that are
missing are refused; transformers would fill them with random numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from sentence_transformers.base.modules import Module, Router, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
from sentence_transformers.util.misc import import_module_class
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.utils.logging import disable_progress_bar

from deployments.core.engine.device_errors import is_out_of_memory, reason_of
from deployments.core.engine.pretrained import refuse_missing_weights
from deployments.core.errors import EmbedfleetError, ModelUnavailable, UnsupportedModel
from deployments.core.models import modules as files
from deployments.core.models import spec as specs
from deployments.core.models.modules import listed_modules
from deployments.core.models.spec import ModelSpec

Features = dict[str, Any]
_POOLING_MODES = {
    specs.Pooling.MEAN: "mean",
    specs.Pooling.CLS: "cls",
    specs.Pooling.LAST_TOKEN: "lasttoken",
}


class _RefusesMissing(Transformer):
    """A Transformer that refuses files which lack weights."""

    def _load_model(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> Any:
        loaded: Any = super()._load_model(
            model_name_or_path, *args, **kwargs, output_loading_info=True
        )
        model, report = loaded
        refuse_missing_weights(Path(model_name_or_path), set(report["missing_keys"]))
        return model


class CheckedTransformer(_RefusesMissing):
    """Loads as a Transformer."""


class CheckedMLMTransformer(_RefusesMissing, MLMTransformer):
    """Loads as a MLMTransformer, which a sparse encoder begins with."""


class LargestFirst(SpladePooling):
    """A SpladePooling that makes weights of the largest logits only, if it takes the largest weights.

    These are the same, since a weight grows with its logit. The logits of a pass, of which each token has
    as many as the vocabulary, are then read once and in the transformer's precision. Padding stands on
    the right.
    """

    @property
    def applies(self) -> bool:
        """Whether the model's pooling is the largest weight."""
        return self.pooling_strategy == "max"

    def forward(self, features: Features) -> Features:  # type: ignore[override]
        """Returns the features with ``sentence_embedding``, float32 ``(texts, vocabulary)``."""
        if not self.applies:
            pooled: Features = super().forward(features)
            return pooled
        lengths = features["attention_mask"].sum(dim=1).tolist()
        texts = zip(features["token_embeddings"], lengths, strict=True)
        largest = torch.stack([logits[:length].amax(dim=0) for logits, length in texts])
        weights = largest.float().relu_().log1p_()
        if self.activation_function == "log1p_relu":
            weights = weights.log1p_()
        return {**features, "sentence_embedding": weights}


_CHECKED: dict[Any, type[Module]] = {
    Transformer: CheckedTransformer,
    MLMTransformer: CheckedMLMTransformer,
    SpladePooling: LargestFirst,
}


class Modules(nn.Module):
    """Modules in a row. A final Normalize is left out: the client normalises, after its cut."""

    def __init__(self, modules: Sequence[nn.Module], entries: Sequence[files.Module]) -> None:
        super().__init__()
        if modules and _normalizes_text(modules[-1]):
            modules, entries = modules[:-1], entries[:-1]
        self.steps = nn.ModuleList(modules)
        self._takes_task = [
            isinstance(module, Router) or "task" in (*entry.wants, *_forward_kwargs(module))
            for module, entry in zip(modules, entries, strict=True)
        ]

    def forward(self, features: Features) -> Features:
        """Returns the features with ``sentence_embedding`` among them, ``(texts, dimension)``."""
        for module, takes_task in zip(self.steps, self._takes_task, strict=True):
            features = (
                module(features, task=features.get("task")) if takes_task else module(features)
            )
        return features


def load_modules(
    spec: ModelSpec, folder: Path, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> Modules:
    """Returns the model's modules in evaluation mode, on the CPU.

    ``dtype`` is that of the transformers' weights; all other modules are float32, and so are their
    inputs. A folder without ``modules.json`` is a Transformer with the pooling of ``spec``. Raises
    UnsupportedModel or ModelUnavailable, with sentence-transformers' reason.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    with _explained(folder):
        loader = _Loader(folder, dtype, trust_remote_code)
        entries = [*listed_modules(folder)]
        modules = [loader.load(entry) for entry in entries]
        if len(modules) == 1 and isinstance(first := modules[0], Transformer):
            modules.append(_pooling(spec, first))
            entries.append(files.Module("Pooling", folder))
        return _prepared(Modules(modules, entries))


def load_reranker(folder: Path, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Modules:
    """Returns the modules of a cross-encoder, which give ``scores`` ``(pairs, labels)``.

    Without ``modules.json`` it is a sequence classifier, or a causal model whose score is the odds of
    "yes" to "no", as in sentence-transformers' CrossEncoder. Raises as `load_modules`.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    with _explained(folder):
        loader = _Loader(folder, dtype, trust_remote_code)
        if not (folder / "modules.json").is_file():
            modules = loader.reranker()
            entries = [files.Module(type(module).__name__, folder) for module in modules]
            return _prepared(Modules(modules, entries))
        listed = listed_modules(folder)
        return _prepared(Modules([loader.load(entry) for entry in listed], listed))


def load_tail(folder: Path, entries: Sequence[files.Module]) -> Modules:
    """Returns the modules behind a Transformer, in float32 and evaluation mode. Raises as above."""
    with _explained(folder):
        loader = _Loader(folder, torch.float32, trust_remote_code=False)
        return _prepared(Modules([loader.load(entry) for entry in entries], entries))


def _prepared(modules: Modules) -> Modules:
    """Makes everything but transformers float32, and hands it float32."""
    _to_float32(modules)
    pairs = pairwise(modules.steps)
    widens_itself = [a for a, b in pairs if isinstance(b, LargestFirst) and b.applies]
    for module in modules.modules():
        if isinstance(module, Transformer) and module not in widens_itself:
            module.register_forward_hook(_widen)
    return modules.eval()


def _to_float32(module: nn.Module) -> None:
    if isinstance(module, Transformer):
        return
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.float()
    for child in module.children():
        _to_float32(child)


class _Loader:
    """Loads single modules; also stands in for the table of classes that a Router looks them up in."""

    def __init__(self, folder: Path, dtype: torch.dtype, trust_remote_code: bool) -> None:
        self._folder, self._trust_remote_code = folder, trust_remote_code
        self._model_kwargs = {"dtype": dtype}

    def load(self, entry: files.Module) -> nn.Module:
        """Returns the module of this entry."""
        cls = self.get(entry.type) if entry.type else CheckedTransformer
        parameters = inspect.signature(cls.load).parameters
        if len(parameters) == 1:  # code of the model's repository, written for older versions
            return _module(cls.load(str(self._folder / entry.path)))
        routes = {"module_classes": self} if "module_classes" in parameters else {}
        return _module(
            cls.load(
                str(self._folder),
                subfolder=entry.path,
                local_files_only=True,
                trust_remote_code=self._trust_remote_code,
                model_kwargs=dict(self._model_kwargs),
                **routes,
            )
        )

    def reranker(self) -> list[nn.Module]:
        """Returns the modules of a cross-encoder that has no ``modules.json``."""
        own = {"local_files_only": True, "trust_remote_code": self._trust_remote_code}
        config = AutoConfig.from_pretrained(self._folder, **own)
        is_causal = (config.architectures or [""])[0].endswith("ForCausalLM")
        transformer = CheckedTransformer(
            str(self._folder),
            transformer_task="text-generation" if is_causal else "sequence-classification",
            model_kwargs={**self._model_kwargs, **own},
            processor_kwargs=dict(own),
            config_kwargs=dict(own),
        )
        if not is_causal:
            return [transformer]
        yes, no = transformer.tokenizer.convert_tokens_to_ids(["yes", "no"])
        if None in (yes, no):
            raise ValueError("the tokenizer knows no `yes` or no `no`, which the score is made of")
        return [transformer, LogitScore(yes, no)]

    def get(self, class_ref: str) -> Any:
        """Returns the class of this name. Raises ValueError for code that is not trusted."""
        cls = import_module_class(
            class_ref, str(self._folder), trust_remote_code=self._trust_remote_code
        )
        return _CHECKED.get(cls, cls)


def _module(loaded: Any) -> nn.Module:
    if not isinstance(loaded, nn.Module):
        raise ValueError(f"{type(loaded).__name__} is not a module")
    return loaded


def _pooling(spec: ModelSpec, transformer: Transformer) -> Pooling:
    assert spec.pooling is not None  # the config or the catalog states it, as the files do not
    dimension = transformer.get_embedding_dimension()
    pooling: Pooling = Pooling(dimension, _POOLING_MODES[spec.pooling])
    return pooling


def _normalizes_text(module: nn.Module) -> bool:
    return (
        isinstance(module, Normalize)
        and module.module_input_name == module.module_output_name == "sentence_embedding"
    )


def _forward_kwargs(module: nn.Module) -> Sequence[str]:
    return tuple(getattr(module, "forward_kwargs", ()) if isinstance(module, Module) else ())


def _widen(_module: nn.Module, _inputs: Any, features: Features) -> Features:
    """Gives the modules behind a transformer float32, whatever it computes in."""
    return {name: _wide(value) for name, value in features.items()}


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    return tuple(map(_wide, value)) if isinstance(value, tuple) else value


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turns whatever sentence-transformers raises into an error that names the model's files."""
    try:
        yield
    except EmbedfleetError:
        raise
    except (OSError, SafetensorError) as error:
        raise ModelUnavailable(f"the weights in {folder} cannot be loaded: {error}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UnsupportedModel(
            f"sentence-transformers cannot load {folder}: {type(error).__name__}: {reason_of(error)}"
        ) from error

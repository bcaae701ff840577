"""Compares a model with sentence-transformers as it is loaded, and takes the path that is right."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from deployments.core.engine.device import choose_device, choose_dtype
from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.interface import Network
from deployments.core.errors import UnsupportedModel
from deployments.core.models.cache import cache_key, read_cached, write_cached
from deployments.core.models.description import Description
from deployments.core.models.loading import ModelFiles
from deployments.core.models.local_format import content_hash
from deployments.core.models.spec import Kind

if TYPE_CHECKING:
    from deployments.core.checking.reference import Expected

log = logging.getLogger(__name__)
# weights of up to this size are compared in float32, larger ones in the engine's precision
_SMALL_BYTES = 2 << 30
_KIND = "verdicts"
_REFERENCE = "sentence-transformers"


@dataclass(frozen=True)
class Verdict:
    """The path that a model takes, why it is not the fast one, and what it was compared with."""

    network: Network
    why_general: str | None
    compared_with: str


@dataclass(frozen=True)
class Engines:
    """Makes engines of one model, for a device, a precision, and a number of threads."""

    description: Description
    files: ModelFiles
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None

    def load(self, network: Network) -> TorchEngine:
        """Returns the engine that takes this path.

        Raises as `TorchEngine`, and UnsupportedModel if it wants prompts that clients would not send, or
        lacks words of the tokenizer.
        """
        spec = self.description.spec
        engine = TorchEngine(
            spec,
            self.files.folder,
            self.device,
            self.dtype,
            self.threads,
            network=network,
            trust_remote_code=spec.trust_remote_code,
        )
        if engine.wants_prompts and not spec.needs_prompts:
            raise UnsupportedModel(
                f"code in {self.files.folder} treats queries and documents differently, which only "
                "modules of sentence-transformers may do"
            )
        _refuse_missing_words(self.description, engine.vocabulary)
        return engine


def _refuse_missing_words(description: Description, vocabulary: int) -> None:
    """Raises UnsupportedModel if the network has no embedding for words of the vocabulary.

    Tokens that were added to it may be beyond the table: texts that contain one are refused.
    """
    words = description.fast_tokenizer().words
    if words > vocabulary:
        raise UnsupportedModel(
            f"{description.spec.name} has embeddings for {vocabulary} tokens, but its tokenizer knows "
            f"{words}; are its files of two models?"
        )


def checked_engine(engines: Engines) -> tuple[TorchEngine, Verdict]:
    """Returns an engine whose vectors are right, and how that is known.

    sentence-transformers' copy of the weights is gone before ours is loaded. The verdict is kept on
    disk, so the same files are not compared again with the same libraries. Raises UnsupportedModel,
    with the difference, if the description is wrong or no path gives the right vectors.
    """
    key = _key(engines)
    if (kept := read_cached(_KIND, key)) is not None:
        verdict = Verdict(Network(kept["network"]), kept["why_general"], kept["compared_with"])
        return engines.load(verdict.network), verdict
    expected = _expected(engines)
    _refuse_other_tokens(engines.description, expected)
    engine, why_general = _right_engine(engines, expected)
    verdict = Verdict(engine.network, why_general, f"{_REFERENCE} {version(_REFERENCE)}")
    write_cached(_KIND, key, asdict(verdict))
    return engine, verdict


def _key(engines: Engines) -> str:
    description, folder = engines.description, engines.files.folder
    device = choose_device(engines.device)
    return cache_key(
        files=content_hash(folder),
        spec=repr(description.spec),
        stated=repr(engines.files.spec),
        tokenizer=description.tokenizer,
        not_fast=description.not_fast,
        device=device.type,
        dtype=str(choose_dtype(description.spec, device, engines.dtype)),
    )


def _expected(engines: Engines) -> list[Expected]:
    """Returns what sentence-transformers makes of the sample texts; its weights are freed."""
    from deployments.core.checking.comparison import expectations
    from deployments.core.checking.pair_reference import PairReference
    from deployments.core.checking.reference import Reference

    started, spec = time.monotonic(), engines.description.spec
    device = choose_device(engines.device)
    dtype = choose_dtype(spec, device, engines.dtype)
    small = _weight_bytes(engines.files) <= _SMALL_BYTES
    make = PairReference if spec.kind is Kind.RERANKER else Reference
    reference = make(engines.files, device, torch.float32 if small else dtype)
    expected = expectations(reference, engines.files.spec)
    del reference
    _free()
    log.info(
        "%s: %s took %.1f s for %d texts",
        spec.name,
        _REFERENCE,
        time.monotonic() - started,
        sum(len(side.texts) for side in expected),
    )
    return expected


def _weight_bytes(files: ModelFiles) -> int:
    return sum(path.stat().st_size for path in files.folder.rglob("*.safetensors"))


def _refuse_other_tokens(description: Description, expected: Sequence[Expected]) -> None:
    from deployments.core.checking.comparison import token_difference

    if difference := token_difference(description, expected):
        raise UnsupportedModel(
            f"{description.spec.name} would not get the vectors of {_REFERENCE}: {difference}"
        )


def _right_engine(engines: Engines, expected: Sequence[Expected]) -> tuple[TorchEngine, str | None]:
    from deployments.core.checking.comparison import vector_difference

    description = engines.description
    wanted = Network.GENERAL if description.not_fast else Network.AUTO
    engine = engines.load(wanted)
    why_general = description.not_fast or engine.why_general
    difference = vector_difference(description, engine, _precision(engine), expected)
    if difference and engine.network is Network.FAST:
        log.warning(
            "%s takes the general path, since the fast one differs from %s: %s",
            description.spec.name,
            _REFERENCE,
            difference,
        )
        why_general = f"on the fast one, {difference}"
        del engine
        _free()
        engine = engines.load(Network.GENERAL)
        difference = vector_difference(description, engine, _precision(engine), expected)
    if difference:
        raise UnsupportedModel(
            f"{description.spec.name} does not get the vectors of {_REFERENCE}: {difference}"
        )
    return engine, why_general


def _precision(engine: TorchEngine) -> str:
    return str(engine.dtype).removeprefix("torch.")


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

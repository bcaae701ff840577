"""A model's description: what whoever prepares texts for it must know, made once with transformers.

Routers and corpus workers tokenize with a description and read none of the model's files, so no two
processes can read the same files differently. `describe` makes it; it needs transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers

from deployments.core.errors import UnsupportedModel
from deployments.core.models.local_format import tokenizer_arguments, transformer_settings
from deployments.core.models.modules import (
    read_modules,
    read_optional_json,
    route,
    transformer_of,
)
from deployments.core.models.pairs import pair_template_of
from deployments.core.models.spec import Kind, ModelSpec, PairTokens, Question, Role, SpecialTokens
from deployments.core.models.tokenizer import FastTokenizer, parse_tokenizer, template_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# transformers 5 rebuilds these from their vocabulary, with a normalizer that some models were not
# trained with. tokenizer.json, which transformers 4 obeyed, is right. With the kind of model in it.
_AS_IN_FILE = {
    "LlamaTokenizer": "BPE",
    "CodeLlamaTokenizer": "BPE",
    "DebertaV2Tokenizer": "Unigram",
}
# transformers 4 obeyed add_bos_token and add_eos_token for these; 5 obeys tokenizer.json, so models such
# as e5-mistral lose the end token (https://github.com/embeddings-benchmark/mteb/pull/5237)
_OBEYED_FLAGS = frozenset(
    {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer"}
)
# the files that a tokenizer is read from, and the names that models give them
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "tekken.json", "vocab-*.*")


@dataclass(frozen=True)
class Description:
    """Everything that decides a text's token ids: `ModelSpec`, and the tokenizer's JSON.

    ``tokenizer`` is a `tokenizers.Tokenizer` as transformers configures it, without truncation and
    padding. The spec has the prompts, the limits and the special tokens. ``not_fast`` says why the fast
    path cannot give the right vectors, if the tokenizer tells.
    """

    spec: ModelSpec
    tokenizer: str
    not_fast: str | None = None

    def fast_tokenizer(self) -> FastTokenizer:
        """Returns what turns texts into token ids."""
        return FastTokenizer(self.spec, self.tokenizer)


def describe(spec: ModelSpec, folder: Path) -> Description:
    """Returns the description of the model in ``folder``: ``spec``, and what its tokenizer adds to it.

    Raises UnsupportedModel if transformers cannot read the tokenizer or it cannot be honoured.
    """
    transformer = transformer_folder(folder)
    if transformer is None:
        return Description(
            replace(spec, special_tokens=SpecialTokens((), ())), _static_tokenizer(folder)
        )
    settings = transformer_settings(transformer, spec.kind)
    tokenizer = load_tokenizer(transformer, tokenizer_arguments(settings))
    backend = parse_tokenizer(tokenizer.backend_tokenizer.to_str())
    if spec.lowercase:
        _lowercase_first(backend)
    special_tokens = spec.special_tokens or flagged_special_tokens(transformer, backend)
    described = replace(spec, special_tokens=special_tokens)
    if spec.question is not None:
        described = _with_question(described, spec.question, backend)
    elif spec.kind is Kind.RERANKER:
        described = replace(described, pair_tokens=_pair_tokens(tokenizer, backend))
    return Description(described, backend.to_str(), _type_problem(tokenizer))


def transformer_folder(folder: Path) -> Path | None:
    """Returns the folder of a model's transformer; None if it has none, as a StaticEmbedding.

    A catalog model may come without ``modules.json``.
    """
    if not (folder / "modules.json").is_file():
        return folder
    return transformer_of(read_modules(folder))


def load_tokenizer(transformer: Path, arguments: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Returns the tokenizer as the model was trained with it.

    That is as transformers configures it, but for the classes in which transformers 5 departs from
    ``tokenizer.json``. Raises UnsupportedModel if it cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # transformers would make do with a tokenizer that knows no words
    if not any(path for name in _VOCABULARIES for path in transformer.glob(name)):
        raise UnsupportedModel(
            f"{transformer} has no tokenizer.json and no vocabulary; save the model's tokenizer beside "
            "its weights"
        )
    loader: Any = PreTrainedTokenizerFast if reads_as_in_file(transformer) else AutoTokenizer
    try:
        tokenizer = loader.from_pretrained(transformer, local_files_only=True, **arguments)
    except Exception as error:  # any, from any of a hundred classes
        raise UnsupportedModel(
            f"transformers cannot read the tokenizer in {transformer}: {error}"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModel(
            f"the tokenizer in {transformer} is a {type(tokenizer).__name__}, which is not of the "
            "`tokenizers` library, so it is not supported"
        )
    return tokenizer  # type: ignore[no-any-return]


def reads_as_in_file(transformer: Path) -> bool:
    """Whether this tokenizer follows ``tokenizer.json`` where transformers 5 does not."""
    kind = _AS_IN_FILE.get(_class_of(transformer))
    if kind is None or not (transformer / "tokenizer.json").is_file():
        return False
    model = read_optional_json(transformer / "tokenizer.json").get("model") or {}
    # a byte-level BPE has no byte fallback: transformers 5 obeys its file
    return model.get("type") == kind and (kind != "BPE" or bool(model.get("byte_fallback")))


def _class_of(transformer: Path) -> str:
    config = read_optional_json(transformer / "tokenizer_config.json")
    return str(config.get("tokenizer_class")).removesuffix("Fast")


def _static_tokenizer(folder: Path) -> str:
    module = route(read_modules(folder), Role.DOCUMENT)[0]
    path = module.folder / "tokenizer.json"
    if not path.is_file():
        raise UnsupportedModel(f"{path} is missing; save the model with sentence-transformers")
    return parse_tokenizer(path.read_text()).to_str()


def _type_problem(tokenizer: PreTrainedTokenizerFast) -> str | None:
    if "token_type_ids" not in tokenizer.model_input_names:
        return None
    types = tokenizer("a b c")["token_type_ids"]
    return "its tokenizer gives tokens a token_type_id other than 0" if any(types) else None


def _pair_tokens(tokenizer: PreTrainedTokenizerFast, backend: tokenizers.Tokenizer) -> PairTokens:
    """Returns what the tokenizer puts around two texts. Raises UnsupportedModel for any other layout."""
    pair_tokens = pair_template_of(backend)
    encoded = tokenizer("a", "b")
    types = encoded.get("token_type_ids") or [0] * len(encoded["input_ids"])
    first, second = types[0], types[-1]
    before = len(types) - len(pair_tokens.last) - len(backend.encode("b", add_special_tokens=False))
    if first != 0 or types != [0] * before + [second] * (len(types) - before):
        raise UnsupportedModel(
            f"the tokenizer gives a pair the token types {types}; they must be 0 before the second text, "
            "and one other type from there on"
        )
    return replace(pair_tokens, second_type=second)


def _with_question(
    spec: ModelSpec, question: Question, tokenizer: tokenizers.Tokenizer
) -> ModelSpec:
    """Returns the description with the ids of a causal reranker's question and answers."""
    before, after = (
        tuple(tokenizer.encode(text, add_special_tokens=False).ids)
        for text in (question.before, question.after)
    )
    yes, no = (tokenizer.token_to_id(word) for word in (question.yes, question.no))
    if yes is None or no is None:
        raise UnsupportedModel(
            f"the tokenizer of {spec.name} knows no {question.yes!r} or no {question.no!r}, which its "
            "score is made of"
        )
    return replace(spec, special_tokens=SpecialTokens(before, after), answer_tokens=(yes, no))


def flagged_special_tokens(
    transformer: Path, tokenizer: tokenizers.Tokenizer
) -> SpecialTokens | None:
    """Returns the special tokens that ``tokenizer_config.json`` asks for, if transformers drops some.

    None if it drops none.
    """
    if _class_of(transformer) not in _OBEYED_FLAGS:
        return None
    template = template_of(tokenizer)
    config = read_optional_json(transformer / "tokenizer_config.json")

    def added(name: str) -> tuple[int, ...]:
        token = config.get(f"{name}_token")
        content = token.get("content") if isinstance(token, dict) else token
        token_id = tokenizer.token_to_id(str(content)) if config.get(f"add_{name}_token") else None
        return () if token_id is None else (token_id,)

    special_tokens = SpecialTokens(template.first or added("bos"), template.last or added("eos"))
    return None if special_tokens == template else special_tokens


def _lowercase_first(tokenizer: tokenizers.Tokenizer) -> None:
    steps = [Lowercase(), tokenizer.normalizer] if tokenizer.normalizer else [Lowercase()]
    tokenizer.normalizer = Normalizers(steps)

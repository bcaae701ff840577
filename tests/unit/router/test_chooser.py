"""From a request's texts and the replicas' states to the policy's facts and loads."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.client.preprocessing import Preprocessor
from deployments.config.schema import AppArgs, ModelConfig, Routing
from deployments.core.errors import InvalidRequest, NoModelFits, UnknownModel, WrongKind
from deployments.core.lane import Lane
from deployments.core.models import token_bounds
from deployments.core.models.catalog import CATALOG
from deployments.core.models.reading import read
from deployments.core.models.spec import GIVE_VECTORS, Kind, PairTokens, Role, Size
from deployments.core.models.token_bounds import estimate_tokens, upper_bound
from deployments.core.request import TokenInput
from deployments.core.routing.facts import RequestFacts, SharedSpace
from deployments.router.chooser import Chooser, candidate
from deployments.wire.status import ModelState, ModelStatus, ReplicaState, ReplicaStatus

MINILM, E5, MANY = "all-MiniLM-L6-v2", "e5-small", "multilingual-e5-large-instruct"
JUDGE, SPLADE = "ms-marco-MiniLM-L6-v2", "splade"
PAIRS = PairTokens((1,), (2,), (2,), 1)
SPECS = {
    **CATALOG,
    JUDGE: replace(CATALOG[JUDGE], pair_tokens=PAIRS, max_tokens=20),
    SPLADE: replace(CATALOG[E5], name=SPLADE, kind=Kind.SPARSE, dimension=30_522),
}
SCORES = (Kind.RERANKER,)
RERANK = RequestFacts(kinds=(Kind.RERANKER, Kind.EMBEDDER), roles=frozenset(Role))


class Words:
    """A tokenizer to which a word is a token. Counts the texts that it is called with."""

    room = 20

    def __init__(self):
        self.counted = 0

    def read(self, texts):
        self.counted += len(texts)
        return read(texts, room=1_000)

    def encode(self, texts):
        return [text.split() for text in texts]

    def longest(self, contents):
        return max(map(len, contents.ids))


class FakeFleet:
    def __init__(self):
        self.statuses, self.last_measured = {}, {}

    def status(self, name):
        return self.statuses.get(name, ModelStatus(ModelState.READY, 1))

    def measured(self, name):
        return self.last_measured.get(name)


@pytest.fixture
def fleet():
    return FakeFleet()


@pytest.fixture
def tokenizer():
    return Words()


def chooser(fleet, tokenizer, shared=lambda name: None, names=(MINILM, E5, MANY), **fields):
    models = [{"name": n} | ({} if n in CATALOG else {"path": "/models"}) for n in names]
    args = AppArgs.model_validate({"models": models, **fields})
    preprocessors = {name: Preprocessor(SPECS[name], tokenizer) for name in names}
    clients = {
        name: SimpleNamespace(preprocessor=f, spec=f.spec) for name, f in preprocessors.items()
    }
    result = Chooser(args, clients, fleet, shared)
    result.configure(args.routing)
    return result


@pytest.mark.parametrize(
    ("texts", "facts", "model"),
    [
        (["an English text about plants"], RequestFacts("auto"), MINILM),
        (["한국어 텍스트입니다"], RequestFacts("auto"), MANY),
        (["word " * 300], RequestFacts("auto"), E5),
        (["a text"], RequestFacts("auto", instruction="Find it"), MANY),
        (["a text"], RequestFacts("auto", dimensions=1024), MANY),
        (TokenInput(E5, ((1, 2),)), RequestFacts("auto"), E5),
        (["한국어 텍스트입니다"], RequestFacts(MINILM), MINILM),
        (["a text"], RequestFacts("small"), MINILM),
    ],
)
async def test_which_model_answers(fleet, tokenizer, texts, facts, model):
    _, decision = await chooser(fleet, tokenizer).choose(facts, texts)
    assert decision.model == model


@pytest.mark.parametrize("default", [None, E5, "auto", JUDGE])
async def test_each_kind_of_request_has_its_default(fleet, tokenizer, default):
    both = chooser(fleet, tokenizer, names=(E5, JUDGE), default_model=default)
    _, decision = await both.choose(RERANK, ["a", "b"])
    assert (decision.model, decision.kind) == (JUDGE, Kind.RERANKER)
    _, decision = await both.choose(RequestFacts(), ["a", "b"])
    assert (decision.model, decision.kind) == (E5, Kind.EMBEDDER)


@pytest.mark.parametrize(("words", "model"), [(12, JUDGE), (13, MINILM)])
async def test_a_query_and_a_document_have_to_fit_together(fleet, tokenizer, words, model):
    both = chooser(fleet, tokenizer, names=(MINILM, JUDGE))
    document = " ".join(["the", "plants", "in", "our", "garden", "grow"] * 3)
    texts = ["which plants grow in gardens", "a plant", " ".join(document.split()[:words])]
    facts, decision = await both.choose(replace(RERANK, requested="auto"), texts)
    assert facts.longest[JUDGE] == 5 + words + len(PAIRS)
    assert decision.model == model


async def test_a_request_without_model_gets_the_default(fleet, tokenizer):
    _, decision = await chooser(fleet, tokenizer).choose(RequestFacts(), ["a"])
    assert (decision.model, decision.reason) == (MINILM, "default")
    left_open = chooser(fleet, tokenizer, default_model="auto")
    _, decision = await left_open.choose(RequestFacts(), ["한국어 텍스트입니다"])
    assert decision.model == MANY


async def test_the_texts_of_a_request_for_a_named_model_are_not_examined(fleet, tokenizer):
    await chooser(fleet, tokenizer).choose(RequestFacts(E5), ["word " * 10_000])
    assert tokenizer.counted == 0


async def test_short_texts_are_not_tokenized_to_be_counted(fleet, tokenizer):
    facts, _ = await chooser(fleet, tokenizer).choose(RequestFacts("auto"), ["a short text"])
    assert tokenizer.counted == 0
    assert facts.longest[MINILM] == upper_bound("a short text")


@pytest.mark.parametrize(
    ("texts", "tokens", "largest"),
    [
        (
            ["short", "word " * 80],
            estimate_tokens(["short", "word " * 80]),
            estimate_tokens(["word " * 80]),
        ),
        (TokenInput(MINILM, ((1, 2), (1, 2, 3, 4))), 6, 4),
    ],
)
async def test_the_tokens_of_all_texts_and_of_the_largest_are_estimated(
    fleet, tokenizer, texts, tokens, largest
):
    facts, _ = await chooser(fleet, tokenizer).choose(RequestFacts("auto"), texts)
    assert (facts.tokens, facts.largest) == (tokens, largest)


async def test_a_long_text_is_counted_together_with_its_prompt(fleet, tokenizer):
    facts, _ = await chooser(fleet, tokenizer).choose(RequestFacts("auto"), ["word " * 300])
    # 300 words are over MiniLM's limit in any case; e5's prompt is one more
    assert facts.longest == {MINILM: 300, E5: 301, MANY: 300}
    assert tokenizer.counted == 2


async def test_few_texts_of_a_batch_over_a_limit_are_tokenized(fleet, tokenizer, monkeypatch):
    monkeypatch.setattr("deployments.client.preprocessing.lower_bound", lambda text, limit: 1)
    texts = ["word " * 600, *["word " * 590] * 500]
    with pytest.raises(NoModelFits, match="the longest text has at least 600"):
        await chooser(fleet, tokenizer).choose(RequestFacts("auto"), texts)
    assert tokenizer.counted <= 3 * 8


async def test_a_corpus_job_has_one_model(fleet, tokenizer):
    shared = {E5: SharedSpace("mine", "0", frozenset(Role))}
    ours = chooser(fleet, tokenizer, shared.get)
    assert (await ours.choose_for_job("small", GIVE_VECTORS)).model == MINILM
    assert (await ours.choose_for_job(f"{E5}-query", GIVE_VECTORS)).role is Role.QUERY
    for name in ("auto", "auto-document", "mine"):
        with pytest.raises(InvalidRequest, match=f"`{name}`"):
            await ours.choose_for_job(name, GIVE_VECTORS)


async def test_a_corpus_job_has_a_model_of_the_kind_that_it_needs(fleet, tokenizer):
    ours = chooser(fleet, tokenizer, names=(E5, JUDGE, SPLADE))
    assert (await ours.choose_for_job(SPLADE, GIVE_VECTORS)).kind is Kind.SPARSE
    assert (await ours.choose_for_job(E5, GIVE_VECTORS)).kind is Kind.EMBEDDER
    assert (await ours.choose_for_job(JUDGE, SCORES)).kind is Kind.RERANKER
    for name, kinds, others in ((JUDGE, GIVE_VECTORS, (E5, SPLADE)), (E5, SCORES, (JUDGE,))):
        with pytest.raises(WrongKind) as refused:
            await ours.choose_for_job(name, kinds)
        assert all(other in refused.value.message for other in others)


@pytest.mark.parametrize(
    ("name", "kinds", "known"),
    [
        ("smal", GIVE_VECTORS, [MINILM, SPLADE, "small"]),
        ("judge", SCORES, [JUDGE, "small"]),
    ],
)
async def test_an_unknown_model_of_a_job_lists_what_a_job_may_name(
    fleet, tokenizer, name, kinds, known
):
    shared = {MINILM: SharedSpace("mine", "0", frozenset(Role))}
    ours = chooser(fleet, tokenizer, shared.get, names=(MINILM, JUDGE, SPLADE))
    with pytest.raises(UnknownModel) as refused:
        await ours.choose_for_job(name, kinds)
    assert refused.value.param == "model"
    assert refused.value.message.endswith(f" known: {', '.join(known)}")
    assert ("did you mean 'small'?" in refused.value.message) is (name == "smal")


async def test_an_unknown_reranker_where_there_is_none(fleet, tokenizer):
    with pytest.raises(UnknownModel, match="serves no reranker: add one to its config") as refused:
        await chooser(fleet, tokenizer, names=(MINILM, SPLADE)).choose_for_job("judge", SCORES)
    assert refused.value.param == "model"


def test_loads_are_those_of_all_replicas(fleet, tokenizer):
    waiting = {Lane.ONLINE: 100, Lane.OFFLINE: 7}
    replica = ReplicaStatus(
        ReplicaState.READY, tokens_per_s=50, start_s=9.0, waiting=waiting, streams=4
    )
    fleet.statuses[E5] = ModelStatus(ModelState.READY, 3, replica=replica)
    fleet.last_measured[E5] = replica
    load = chooser(fleet, tokenizer).loads()[E5]
    assert (load.waiting[Lane.ONLINE], load.waiting[Lane.OFFLINE]) == (100, 7)
    assert (load.tokens_per_s, load.replicas, load.start_s) == (150, 3, 9.0)
    assert load.streams == 4  # of each


def test_a_cold_model_keeps_what_was_measured(fleet, tokenizer):
    fleet.statuses[E5] = ModelStatus(ModelState.COLD)
    fleet.last_measured[E5] = ReplicaStatus(ReplicaState.READY, tokens_per_s=50, start_s=9.0)
    load = chooser(fleet, tokenizer).loads()[E5]
    assert (load.state, load.tokens_per_s, load.start_s) == (ModelState.COLD, 50, 9.0)


def test_work_in_progress_counts_before_the_next_refresh(fleet, tokenizer):
    ours = chooser(fleet, tokenizer)
    with (
        ours.in_progress(E5, Lane.ONLINE, 500),
        ours.in_progress(E5, Lane.ONLINE, 50),
    ):
        assert ours.loads()[E5].waiting[Lane.ONLINE] == 550
        assert ours.loads()[MINILM].waiting[Lane.ONLINE] == 0
    assert ours.loads()[E5].waiting[Lane.ONLINE] == 0


async def test_a_flood_sends_the_next_request_elsewhere(fleet, tokenizer):
    ours = chooser(fleet, tokenizer)
    with ours.in_progress(MINILM, Lane.ONLINE, 1_000_000):
        _, decision = await ours.choose(RequestFacts("auto"), ["a text"])
    assert decision.model == E5


def test_the_config_overrides_sizes_languages_and_licences(fleet, tokenizer):
    ours = chooser(fleet, tokenizer)
    ours.configure(Routing(sizes={E5: Size.LARGE}))
    assert {c.name: c.size for c in ours.candidates()}[E5] is Size.LARGE
    own = ModelConfig(name=E5, languages=("de",), licence="cc-by-nc-4.0")
    actual = candidate(own, CATALOG[E5])
    assert (actual.languages, actual.spec.licence) == (("de",), "cc-by-nc-4.0")


def test_a_model_named_by_its_hub_id_has_the_catalogs_size():
    e5 = CATALOG[MANY]
    by_id, by_path = ModelConfig(name=e5.repo), ModelConfig(name="ours", path=e5.repo)
    for model in (by_id, by_path):
        actual = candidate(model)
        assert (actual.name, actual.size, actual.repo) == (model.name, e5.size, e5.repo)


def test_a_candidate_is_rebuilt_once_its_space_has_a_verdict(fleet, tokenizer):
    verdicts = {}
    ours = chooser(fleet, tokenizer, shared=verdicts.get)
    assert ours.candidates()[0].shared is None
    verdicts[MINILM] = SharedSpace("pair", "0123456789ab", frozenset(Role))
    assert ours.candidates()[0].shared_space() == "0123456789ab"


@pytest.mark.parametrize("text", ["", "abc", "größe", "한국어", "ﷺ" * 3, "\ud800"])
def test_the_upper_bound_holds_for_bytes_and_their_decompositions(text):
    assert upper_bound(text) >= len(text.encode(errors="surrogatepass")) + 2
    assert estimate_tokens([text]) >= 1


def test_a_ligature_that_grows_is_bounded():
    assert upper_bound("ﷺ") >= 18


@pytest.mark.parametrize(
    "text", ["e" + "\u0301\u0327\u0323" * 200, "가" * 300, "ﷺé" * 200, "a" * 65]
)
def test_the_upper_bound_counts_the_bytes_of_the_decomposed_text(text):
    decomposed = len(unicodedata.normalize("NFKD", text).encode())
    assert upper_bound(text) == max(decomposed, len(text.encode())) + upper_bound("")


@given(st.text(max_size=300) | st.text("e\u0301\u0327\u0f71\u3099가ﷺ", max_size=300))
def test_so_it_does_for_any_text(text):
    decomposed = len(unicodedata.normalize("NFKD", text).encode())
    assert upper_bound(text) == max(decomposed, len(text.encode())) + upper_bound("")


def test_the_upper_bound_takes_linear_time():
    # decomposed at once, the marks of this text are sorted for minutes
    assert upper_bound("\u0301\u0327" * 500_000) > 2_000_000


async def test_a_long_text_of_combining_marks_is_not_decomposed(fleet, tokenizer, monkeypatch):
    decomposed = []
    normalize = unicodedata.normalize
    monkeypatch.setattr(
        token_bounds.unicodedata,
        "normalize",
        lambda form, text: decomposed.append(len(text)) or normalize(form, text),
    )
    texts = ["e" + "\u0301\u0327" * 50_000]
    await chooser(fleet, tokenizer).choose(RequestFacts("auto"), texts)
    assert sum(decomposed) <= 3 * 1_000


@pytest.mark.parametrize(
    ("default", "facts", "models", "chosen"),
    [
        (MINILM, RequestFacts(), {E5}, E5),
        (MINILM, RequestFacts(), {E5, MINILM}, MINILM),
        ("auto", RequestFacts(), {MANY}, MANY),
        (MINILM, RERANK, {E5}, E5),
    ],
)
async def test_the_default_is_a_model_that_the_caller_may_use(
    fleet, tokenizer, default, facts, models, chosen
):
    names = (MINILM, E5, MANY, JUDGE)
    made = chooser(fleet, tokenizer, names=names, default_model=default)
    _, decision = await made.choose(replace(facts, models=frozenset(models)), ["a text"])
    assert decision.model == chosen

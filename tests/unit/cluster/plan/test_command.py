"""``embedfleet plan`` from its arguments to what it prints."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from xml.etree import ElementTree

import pytest

from cluster import cli
from cluster.plan import progress
from cluster.plan.speed import speed_of_report
from deployments.core.planning.measured import CARDS
from tests.support.documents import PAGES, ROOT
from tests.support.importing import importing, loaded

CORPUS = ("--rows", "1000000", "--tokens-per-row", "100", "--tokens-per-second", "10000")
BENCH = {
    "token_budget": 1_024,
    "speeds": [
        {"tokens_a_text": 16, "tokens_per_s": 5_000.0},
        {"tokens_a_text": 128, "tokens_per_s": 10_240.0},
    ],
}
IMPOSSIBLE, WRONG = 1, 2


@pytest.fixture
def run(capsys):
    def plan(*words):
        status = cli.main(["plan", *map(str, words)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return plan


@pytest.fixture
def plan(run):
    def made(*words):
        status, out, err = run(*words, "--json")
        assert status == 0, err
        return json.loads(out)

    return made


@pytest.fixture
def bench(tmp_path):
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(BENCH))
    return file


@pytest.fixture
def trace(tmp_path):
    """Half an hour: 5,000 tokens/s, and in between 20,000."""
    file = tmp_path / "trace.csv"
    rates = [5_000] * 10 + [20_000] * 10 + [5_000] * 10
    file.write_text(
        "time,tokens\n" + "".join(f"{n * 60},{rate * 60}\n" for n, rate in enumerate(rates))
    )
    return file


def test_a_corpus_without_a_deadline_takes_one_replica(plan):
    made = plan(
        *CORPUS, "--efficiency", "0.5", "--start-s", "53", "--price-per-replica-hour", "3.6"
    )
    assert made["replicas"] == 1
    assert made["tokens"] == 100_000_000
    assert made["hours"] == pytest.approx((60 + 20_000) / 3_600)  # 7 s are the job's own
    assert made["cost"] == pytest.approx(20.06)


def test_a_deadline_is_kept(plan):
    made = plan(*CORPUS, "--deadline-hours", "0.5")
    assert made["replicas"] == 8
    assert 0.4 < made["hours"] <= 0.5
    assert made["worker_cores"] == 1


def test_a_budget_is_kept(plan):
    priced = (*CORPUS, "--price-per-replica-hour", "2", "--budget")
    small, large = plan(*priced, 8), plan(*priced, 10)
    assert small["cost"] <= 8
    assert large["cost"] <= 10
    assert 1 <= small["replicas"] < large["replicas"]
    assert plan(*priced, 10, "--max-replicas", 2)["replicas"] == 2


def test_cores_grow_with_the_replicas(plan):
    made = plan(*CORPUS, "--max-replicas", 1_000)
    assert made["worker_cores"] == 13  # 1.7 CPU-s for each of 7.5 million tokens a second
    assert made["router_cores"] == 30


def test_the_text_says_what_was_assumed(run):
    status, out, _ = run(*CORPUS, "--deadline-hours", "1")
    assert status == 0
    for part in ("10,000 tokens/s (--tokens-per-second)", "0.75 of that", "67 s", "replicas"):
        assert part in out


def test_a_sample_is_counted_as_its_job_would_read_it(plan):
    sample = ROOT / "examples" / "corpus.jsonl"
    rows = len(sample.read_text().splitlines())
    words = ("all-MiniLM-L6-v2", "--sample", sample, "--tokens-per-second", "1000")
    counted = plan(*words)
    assert counted["rows"] == rows
    assert 5 * rows < counted["tokens"] < 50 * rows
    more = plan(*words, "--rows", 10 * rows)
    assert more["tokens"] == 10 * counted["tokens"]


def test_rows_without_text_and_long_texts_are_reported(plan, tmp_path):
    sample = tmp_path / "sample.jsonl"
    rows = [{"body": "word " * 1_000}, {"body": None}, {"body": "short"}]
    sample.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("all-MiniLM-L6-v2", "--sample", sample, "--text-column", "body")
    made = plan(*words, "--tokens-per-second", "1000")
    assert (made["rows"], made["tokens"]) == (2, 256 + 3)
    assert len(made["notes"]) == 2


def test_a_report_of_bench_gives_the_speed_of_such_texts(plan, bench):
    words = ("--rows", "10", "--bench", bench, "--tokens-per-row")
    seconds = (16 / 5_000 + 128 / 10_240) / 2
    speeds = {"16": 5_000, "72": round(72 / seconds), "128": 10_240, "8": 5_000, "300": 10_240}
    assert {n: round(plan(*words, n)["tokens_per_s"]) for n in speeds} == speeds


@pytest.mark.parametrize(("length", "named"), [("8", 16), ("72", 72), ("300", 128)])
def test_a_report_of_bench_names_the_length_whose_speed_counts(bench, length, named):
    assert speed_of_report(bench, float(length)).source == f"{bench}, texts of {named} tokens"


@pytest.mark.parametrize("card", CARDS)
def test_a_card_has_the_figure_of_the_performance_page(plan, card):
    made = plan("all-minilm-l6-v2", "--rows", "10", "--tokens-per-row", "9", "--card", card)
    assert f"**{made['tokens_per_s']:,.0f}**" in PAGES["performance.md"]


def test_a_trace_is_simulated_beside_the_oracle(plan, trace):
    made = plan("--trace", trace, "--tokens-per-second", "5000", "--utilisation", "0.7", "0.9")
    assert [row["policy"] for row in made["policies"]] == [
        "oracle",
        "utilisation 0.7",
        "utilisation 0.9",
    ]
    oracle, ours, tight = made["policies"]
    assert oracle["replica_hours"] == pytest.approx((1 + 4 + 1) / 6)
    assert (oracle["to_oracle"], oracle["wait_p99_s"]) == (1, 0)
    assert oracle["replica_hours"] < tight["replica_hours"] < ours["replica_hours"]
    assert ours["wait_p99_s"] > 1  # the load is four times as high at once
    assert ours["most"] >= 6
    assert (made["seconds"], made["min_replicas"], made["max_replicas"]) == (1_800, 1, 9)
    assert len(made["replicas"]["oracle"]) == 30


def test_each_utilisation_begins_with_what_it_needs_and_may_have_it(plan, tmp_path):
    steady = tmp_path / "steady.csv"
    steady.write_text("time,tokens\n" + "".join(f"{n * 60},6000000\n" for n in range(4)))
    words = ("--trace", steady, "--tokens-per-second", "20000", "--utilisation", 0.5, 0.6, 0.7)
    _, *rows = plan(*words)["policies"]
    assert [(row["most"], row["changes"]) for row in rows] == [(11, 0), (9, 0), (8, 0)]


def test_rays_default_is_beside_it_if_requests_can_be_counted(plan, trace):
    words = ("--trace", trace, "--tokens-per-second", "5000", "--tokens-per-request")
    few, many = (plan(*words, size)["policies"][-1] for size in (5_000, 50))
    assert few["policy"] == many["policy"] == "Ray Serve's default"
    assert few["replica_hours"] < many["replica_hours"]


def test_bounds_hold(plan, trace):
    made = plan("--trace", trace, "--tokens-per-second", "5000", "--max-replicas", "2")
    assert made["policies"][1]["most"] == 2
    assert made["policies"][1]["refused_share"] > 0.1
    made = plan("--trace", trace, "--tokens-per-second", "5000", "--min-replicas", "2")
    assert min(made["replicas"]["oracle"]) == min(made["replicas"]["utilisation 0.7"]) == 2


def test_the_terminal_shows_replicas_over_time_and_a_picture_is_drawn(run, trace, tmp_path):
    picture = tmp_path / "replicas.svg"
    words = ("--tokens-per-second", "5000", "--price-per-replica-hour", "2")
    status, out, _ = run("--trace", trace, *words, "--picture", picture)
    assert status == 0
    assert "▂" in out
    assert "█" in out
    assert "WAIT P50" in out
    assert "--tokens-per-request" in out  # what is left out is said
    drawn = ElementTree.parse(picture).getroot()
    assert len(drawn.findall("{*}polygon")) == len(drawn.findall("{*}polyline")) == 1


def commands_of_the_page() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGES["planning.md"], re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if " plan " in line]


@pytest.mark.parametrize("line", commands_of_the_page())
def test_the_commands_of_the_page_run(run, trace, bench, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "examples" / "corpus.jsonl", "sample.jsonl")
    status, out, _ = run(*shlex.split(line)[2:])
    assert status == 0
    if "--rows 100000000" in line:
        assert f"```text\n{out}```" in PAGES["planning.md"]
    assert ("--picture" in line) == (tmp_path / "replicas.svg").exists()


TRACE = ("--tokens-per-second", "10", "--trace", "TRACE")
REFUSED = {
    (): "--rows",
    ("--rows", "5", "--tokens-per-second", "10"): "--tokens-per-row",
    ("--rows", "5", "--tokens-per-row", "9"): "--tokens-per-second",
    ("--sample", "x.txt", "--tokens-per-second", "10"): "MODEL",
    ("m", "--sample", "x.txt", "--tokens-per-row", "9", *CORPUS[4:]): "--tokens-per-row",
    ("no-such-model", "--sample", "x.txt", *CORPUS[4:]): "no-such-model",
    ("all-minilm-l6-v2", "--sample", "no.jsonl", *CORPUS[4:]): "--sample",
    (*CORPUS, "--budget", "5"): "--price-per-replica-hour",
    (*CORPUS, "--text-column", "body"): "--sample",
    (*CORPUS, "--picture", "x.svg"): "--picture",
    (*CORPUS, "--utilisation", "0.5"): "--utilisation",
    (*CORPUS[:4], "--card", "cpu-bf16"): "MODEL",
    ("all-minilm-l6-v2", *CORPUS[:4], "--card", "L4"): "--tokens-per-second",
    ("e5-mistral-7b-instruct", *CORPUS[:4], "--card", "cpu-bf16"): "--tokens-per-second",
    (*CORPUS[:4], "--bench", "no.json"): "--bench",
    (*TRACE, "--deadline-hours", "3"): "--deadline-hours",
    (*TRACE, "--rows", "3"): "--rows",
    (*TRACE, "--min-replicas", "3", "--max-replicas", "2"): "--min-replicas",
    (*TRACE, "--picture", "replicas.png"): "replicas.svg",
    (*TRACE, "--picture", "no/replicas.svg"): "--picture",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_fit_is_refused_by_its_option(run, trace, words):
    status, out, err = run(*(trace if word == "TRACE" else word for word in words))
    assert (status, out) == (WRONG, "")
    assert REFUSED[words] in err


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ((), ("--rows", "--sample", "--trace", "--tokens-per-second", "--card", "--bench")),
        (("--rows", "5", "--budget", "9"), ("--tokens-per-row", "--card", "--price-per-replica")),
        (("--sample", "x.txt", "--budget", "9"), ("MODEL", "--bench", "--price-per-replica-hour")),
        (("--rows", "5", "--card", "cpu-bf16"), ("--tokens-per-row", "MODEL")),
        (("--trace", "x.csv", "--card", "cpu-bf16"), ("--card needs a MODEL",)),
    ],
)
def test_all_that_is_missing_is_named_at_once(run, words, options):
    status, _, err = run(*words)
    assert status == WRONG
    assert all(option in err for option in options)
    assert len(err.splitlines()) == 1


def test_a_long_simulation_shows_how_far_it_is(run, trace, monkeypatch):
    monkeypatch.setattr(progress, "_SOON_S", 0.0)
    monkeypatch.setattr(progress, "_FILE_EVERY_S", 0.0)
    words = ("--tokens-per-second", "5000", "--utilisation", "0.7", "0.8", "--json")
    status, out, err = run("--trace", trace, *words)
    assert status == 0
    assert json.loads(out)
    assert err.splitlines() == [
        "embedfleet: simulating utilisation 0.7: 0%",
        "embedfleet: simulating utilisation 0.8: 0%",
    ]


def test_a_short_simulation_is_quiet_and_a_terminal_has_one_line():
    stream, now = io.StringIO(), [0.0]
    shown = progress.SimulationProgress(stream, True, lambda: now[0])
    shown.show("utilisation 0.7", 0.1)
    shown.end()
    assert stream.getvalue() == ""
    now[0] = 2.5
    shown.show("utilisation 0.7", 0.4)
    shown.show("utilisation 0.7", 0.5)  # too soon
    shown.end()
    assert stream.getvalue() == "\r\033[Kembedfleet: simulating utilisation 0.7: 40%\r\033[K"


BROKEN_REPORTS = {
    "[]": "speeds",
    "{}": "speeds",
    '{"speeds": []}': "speeds",
    '{"speeds": [5]}': r"speeds[0].tokens_a_text",
    '{"speeds": [{"tokens_a_text": 5, "tokens_per_s": 0}]}': r"speeds[0].tokens_per_s",
}


@pytest.mark.parametrize("content", BROKEN_REPORTS)
def test_a_broken_report_is_refused_by_its_field(run, tmp_path, content):
    file = tmp_path / "bench.json"
    file.write_text(content)
    status, _, err = run(*CORPUS[:4], "--bench", file)
    assert status == WRONG
    assert BROKEN_REPORTS[content] in err


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("--deadline-hours", "0.01"), "--start-s"),
        (("--deadline-hours", "1", "--max-replicas", "2"), "--max-replicas"),
        (("--budget", "1", "--price-per-replica-hour", "2"), "--budget"),
        (
            ("--budget", "7.6", "--price-per-replica-hour", "2", "--deadline-hours", "0.1"),
            "--budget",
        ),
    ],
)
def test_what_is_impossible_has_its_own_status(run, words, option):
    status, out, err = run(*CORPUS, *words)
    assert (status, out) == (IMPOSSIBLE, "")
    assert option in err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rows", "0"),
        ("--tokens-per-second", "-1"),
        ("--tokens-per-second", "inf"),
        ("--efficiency", "1.1"),
        ("--deadline-hours", "soon"),
        ("--start-s", "-1"),
        ("--min-replicas", "-1"),
    ],
)
def test_numbers_out_of_range_are_refused(run, capsys, option, value):
    with pytest.raises(SystemExit):
        run(f"{option}={value}")
    assert option in capsys.readouterr().err


def test_neither_ray_nor_torch_is_loaded():
    modules = ", ".join(f"cluster.plan.{name}" for name in ("sample", "corpus_plan", "trace_plan"))
    assert loaded(importing(modules)).isdisjoint({"ray", "torch", "transformers", "starlette"})

"""The runner over the real store: each custom_id once, whatever is cut off."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from deployments.batch_runner import parts, runner, work
from deployments.batches import lease
from deployments.batches.lease import Lease, LeaseLost
from deployments.batches.states import Batch, Counts, Status
from deployments.batches.store import Store, open_store
from deployments.core.errors import StoreFailed
from tests.support.batches import (
    LONGEST,
    OWNER,
    ended,
    hurry,
    ids_of,
    input_line,
    keep,
    results,
    running,
    send,
)

IDS = [f"id-{n:04}" for n in range(1_000)]


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    hurry(monkeypatch)
    return open_store(str(tmp_path / "store"))


class Answers:
    """Answers each body with itself; refuses texts that say so, and counts.

    After ``most`` answers it gives no more, until it is set ``free``.
    """

    def __init__(self, pause_s: float = 0.0, most: int = 1_000_000) -> None:
        self.pause_s = pause_s
        self.seen: Counter[str] = Counter()
        self.begun, self.most = 0, most
        self.free = asyncio.Event()

    async def __call__(self, body: bytes, tenant: object) -> tuple[int, bytes]:
        text = json.loads(body)["input"]
        self.begun += 1
        if self.begun > self.most:
            await self.free.wait()
        await asyncio.sleep(self.pause_s)
        self.seen[text] += 1
        return (400 if "refuse" in text else 200), body


async def test_each_line_is_answered_once(store):
    answers = Answers()
    lines = [input_line(i, input=f"{i} refuse" if i.endswith("7") else i) for i in IDS]
    batch_id = send(store, lines)
    async with running(store, answers):
        batch = await ended(store, batch_id)
    output, errors = results(store, batch)
    assert batch.status is Status.COMPLETED
    assert batch.request_counts == Counts(1_000, 900, 100)
    assert ids_of(output, errors) == IDS
    assert {line["custom_id"][-1] for line in errors} == {"7"}
    for line in output:
        assert line["response"]["body"]["input"] == line["custom_id"]
        assert (line["response"]["status_code"], line["error"]) == (200, None)
    assert {line["response"]["status_code"] for line in errors} == {400}
    assert set(answers.seen.values()) == {1}
    assert list(batch.times) == ["in_progress", "finalizing", "completed"]


async def test_bad_lines_are_errors_of_their_own(store):
    lines = [input_line("a"), b"nonsense", b"", {**input_line("b"), "url": "/x"}, b"\xff"]
    lines += [b"x" * (LONGEST + 1), input_line("c")]
    async with running(store, Answers()):
        batch = await ended(store, send(store, lines))
    output, errors = results(store, batch)
    assert ids_of(output) == ["a", "c"]
    assert {(e["custom_id"], e["error"]["code"], e["error"]["line"]) for e in errors} == {
        (None, "invalid_json_line", 2),
        ("b", "invalid_url", 4),
        (None, "invalid_json_line", 5),
        (None, "line_too_long", 6),
    }
    assert batch.request_counts == Counts(6, 2, 4)


async def test_results_without_errors_have_no_error_file(store):
    async with running(store, Answers()):
        good = await ended(store, send(store, [input_line("a")]))
        bad = await ended(store, send(store, [b"nonsense"]))
    assert good.error_file_id is None
    assert bad.output_file_id is None
    assert bad.status is Status.COMPLETED


@pytest.mark.parametrize("lines", [[], [b"", b"  "]])
async def test_a_file_without_lines_fails(store, lines):
    async with running(store, Answers()):
        batch = await ended(store, send(store, lines))
    assert batch.status is Status.FAILED
    assert [p.code for p in batch.problems] == ["empty_file"]


async def test_an_id_that_is_there_twice_fails_the_batch_before_any_work(store):
    answers = Answers()
    lines = [*map(input_line, IDS[:500]), input_line(IDS[3]), input_line(IDS[4], input="x")]
    async with running(store, answers):
        batch = await ended(store, send(store, lines))
    assert batch.status is Status.FAILED
    found = [(p.code, p.line, p.param) for p in batch.problems]
    assert found == [("duplicate_custom_id", n, "custom_id") for n in (501, 502)]
    assert not answers.seen


async def test_a_file_with_too_many_requests_fails(store, monkeypatch):
    monkeypatch.setattr(parts, "_MOST_REQUESTS", 3)
    async with running(store, Answers()):
        batch = await ended(store, send(store, map(input_line, "abcd")))
    assert batch.status is Status.FAILED
    assert [p.code for p in batch.problems] == ["too_many_requests"]


async def test_an_input_that_is_gone_fails_the_batch(store):
    batch_id = send(store, [input_line("a")])
    store.delete_file(OWNER, store.batch(OWNER, batch_id).input_file_id)
    async with running(store, Answers()):
        batch = await ended(store, batch_id)
    assert batch.status is Status.FAILED
    assert [p.code for p in batch.problems] == ["input_file_not_found"]


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)


def lose(*_: object) -> None:
    raise LeaseLost


async def parts_done(store: Store, batch_id: str, count: int) -> None:
    await until(lambda: len(store.parts(batch_id)) >= count)


async def test_a_cancelled_batch_keeps_what_is_answered(store):
    batch_id, answers = send(store, map(input_line, IDS)), Answers(most=600)
    async with running(store, answers):
        await until(lambda: answers.seen.total() == 600)
        store.ask_to_cancel(batch_id, 1_800_000_000)
        batch = await ended(store, batch_id)
    output, errors = results(store, batch)
    assert batch.status is Status.CANCELLED
    assert batch.times["cancelling"] == 1_800_000_000
    assert ids_of(output, errors) == IDS
    assert len(output) == 600
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    assert batch.request_counts == Counts(1_000, len(output), len(errors))


async def test_a_batch_that_is_cancelled_in_the_queue_answers_nothing(store):
    batch_id = send(store, map(input_line, IDS[:3]))
    store.ask_to_cancel(batch_id, 1_800_000_000)
    async with running(store, Answers(most=0)):
        batch = await ended(store, batch_id)
    assert batch.status is Status.CANCELLED
    assert ids_of(*results(store, batch)) == IDS[:3]


async def test_a_batch_expires_with_what_is_answered(store):
    batch_id, answers = send(store, map(input_line, IDS), seconds=2), Answers(most=600)
    async with running(store, answers):
        batch = await ended(store, batch_id)
    output, errors = results(store, batch)
    assert batch.status is Status.EXPIRED
    assert ids_of(output, errors) == IDS
    assert len(output) == answers.seen.total()
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}


async def test_runners_that_are_killed_at_random_lose_and_double_nothing(store):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    answers = Answers(pause_s=0.01)
    batch_id = send(store, [*map(input_line, IDS), b"nonsense"])
    for _ in range(8):
        async with running(store, answers):
            await asyncio.sleep(draw.uniform(0.0, 1.0))
    async with running(store, answers):
        batch = await ended(store, batch_id)
    output, errors = results(store, batch)
    assert ids_of(output) == IDS
    assert [line["error"]["code"] for line in errors] == ["invalid_json_line"]
    assert store.files(OWNER) == sorted(
        [batch.input_file_id, batch.output_file_id, batch.error_file_id]
    )


async def test_parts_that_are_done_are_not_answered_again(store):
    answers = Answers(most=600)
    batch_id = send(store, map(input_line, IDS))
    async with running(store, answers):
        await parts_done(store, batch_id, 2)
    lost = sum(answers.seen.values()) - 512
    answers.free.set()
    async with running(store, answers):
        await ended(store, batch_id)
    assert sum(answers.seen.values()) == len(IDS) + lost


async def test_at_most_so_many_run_at_once_and_the_oldest_first(store):
    answers = Answers(most=0)
    batches = []
    for n in range(4):
        batches.append(send(store, [input_line(f"{n}")]))
        await asyncio.sleep(0.002)  # ids of one millisecond have no order
    async with running(store, answers, max_running=2):
        await until(
            lambda: [store.batch(OWNER, b).status for b in batches].count(Status.IN_PROGRESS) == 2
        )
        await asyncio.sleep(0.3)
        states = [store.batch(OWNER, b).status for b in batches]
        assert states == [Status.IN_PROGRESS] * 2 + [Status.VALIDATING] * 2
        answers.free.set()
        for batch_id in batches:
            assert (await ended(store, batch_id)).status is Status.COMPLETED


async def test_a_store_that_fails_for_a_while_costs_nothing(store, monkeypatch):
    save, failures = Store.save_part, []

    def failing(self, *args):
        if len(failures) < 3:
            failures.append(args)
            raise StoreFailed("the disk is full")
        save(self, *args)

    monkeypatch.setattr(Store, "save_part", failing)
    async with running(store, Answers()):
        batch = await ended(store, send(store, map(input_line, IDS)))
    assert len(failures) == 3
    assert batch.status is Status.COMPLETED
    assert ids_of(*results(store, batch)) == IDS


async def test_a_second_runner_waits(store):
    first, second = Answers(), Answers()
    async with running(store, first):
        await ended(store, send(store, [input_line("a")]))
        async with running(store, second):
            for custom_id in "bcd":
                await ended(store, send(store, [input_line(custom_id)]))
                await asyncio.sleep(0.2)
            assert not second.seen


async def test_large_batches_of_one_owner_do_not_keep_those_of_others_waiting(store, monkeypatch):
    monkeypatch.setattr(runner, "_PLACE_S", 0.2)
    large = []
    for _ in range(2):
        large.append(send(store, map(input_line, IDS), owner="large"))
        await asyncio.sleep(0.002)
    answers = Answers(pause_s=0.05)
    async with running(store, answers):
        await until(lambda: all(store.parts(batch_id) for batch_id in large))
        small = [send(store, [input_line(i)]) for i in "ab"]
        for batch_id in small:
            assert (await ended(store, batch_id)).status is Status.COMPLETED
        assert all(len(store.parts(batch_id)) < 4 for batch_id in large)
        await until(lambda: not store.queue())
    for batch_id in large:
        batch = store.batch("large", batch_id)
        assert batch.status is Status.COMPLETED
        assert batch.request_counts == Counts(1_000, 1_000, 0)
    assert answers.seen["text id-0000"] == 2  # nothing is answered again after a pause


async def test_a_batch_over_which_runners_die_is_given_up(store, monkeypatch):
    batch_id = send(store, map(input_line, IDS))
    answers = Answers(most=256)
    async with running(store, answers):
        await parts_done(store, batch_id, 1)
        await until(lambda: store.batch(OWNER, batch_id).starts == 0)  # it has made progress
    for starts in range(1, 6):
        async with running(store, answers) as killed:
            await until(lambda n=starts: store.batch(OWNER, batch_id).starts == n)
            monkeypatch.setattr(killed._lease, "check", lose)  # a dead process writes nothing
    async with running(store, answers):
        batch = await ended(store, batch_id)
    assert batch.status is Status.FAILED
    assert [p.code for p in batch.problems] == ["runner_died"]
    output, errors = results(store, batch)
    assert (len(output), ids_of(output, errors)) == (256, IDS)  # it keeps what was done
    assert {line["error"]["code"] for line in errors} == {"runner_died"}


async def test_runners_that_end_in_order_are_no_deaths(store):
    batch_id, answers = send(store, [input_line("a")]), Answers(most=0)
    for begun in range(1, 8):
        async with running(store, answers):
            await until(lambda n=begun: answers.begun == n)
        assert store.batch(OWNER, batch_id).starts == 0
    answers.free.set()
    async with running(store, answers):
        assert (await ended(store, batch_id)).status is Status.COMPLETED


async def test_writing_what_is_done_of_a_batch_that_kills_runners_is_tried_once(store):
    batch_id, answers = send(store, map(input_line, IDS)), Answers(most=256)
    async with running(store, answers):
        await parts_done(store, batch_id, 1)
    store.save_batch(replace(store.batch(OWNER, batch_id), starts=6))
    async with running(store, answers):
        batch = await ended(store, batch_id)
    assert (batch.status, batch.output_file_id) == (Status.FAILED, None)


async def test_a_damaged_plan_fails_the_batch(store):
    batch_id, answers = send(store, map(input_line, IDS)), Answers(most=300)
    async with running(store, answers):
        await parts_done(store, batch_id, 1)
    os.truncate(f"{store._root}/work/{batch_id}/plan.json", 20)
    async with running(store, answers):
        batch = await ended(store, batch_id)
    assert [p.code for p in batch.problems] == ["store_damaged"]


@pytest.mark.parametrize(("late_s", "ends"), [(7_200, True), (600, False)])
async def test_a_batch_whose_input_cannot_be_read_ends_once_it_has_expired(
    store, monkeypatch, late_s, ends
):
    def failing(self, info):
        raise StoreFailed("Input/output error")

    monkeypatch.setattr(Store, "open", failing)
    batch_id = send(store, [input_line("a")], seconds=60, age_s=60 + late_s)
    async with running(store, Answers()) as at_work:
        if ends:
            batch = await ended(store, batch_id)
            assert [p.code for p in batch.problems] == ["store_failed"]
        else:
            await until(lambda: at_work._rest_until)
            assert batch_id in store.queue()


async def test_a_suspect_that_rests_keeps_no_other_batch_waiting(store, monkeypatch):
    monkeypatch.setattr(runner, "_STORE_FAILED_S", 60)
    open_file = Store.open

    def failing(self, info):
        if info.id == suspect_input:
            raise StoreFailed("Input/output error")
        return open_file(self, info)

    monkeypatch.setattr(Store, "open", failing)
    suspect, other = send(store, [input_line("a")]), send(store, [input_line("b")])
    suspect_input = store.batch(OWNER, suspect).input_file_id
    store.save_batch(replace(store.batch(OWNER, suspect), starts=2))
    async with running(store, Answers()):
        assert (await ended(store, other)).status is Status.COMPLETED
    assert store.batch(OWNER, suspect).starts == 2  # the store has failed, and no runner has died


@pytest.mark.parametrize("age_s", [0, 86_500])
async def test_a_batch_that_is_over_ends_though_all_places_are_taken(store, age_s):
    long = send(store, map(input_line, IDS))
    await asyncio.sleep(0.002)
    answers = Answers(most=0)
    async with running(store, answers, max_running=1):
        await until(lambda: answers.begun)
        over = send(store, [input_line("a")], age_s=age_s)
        if not age_s:
            store.ask_to_cancel(over, 1_800_000_000)
        batch = await ended(store, over)
        assert not store.batch(OWNER, long).is_final
    assert batch.status is (Status.EXPIRED if age_s else Status.CANCELLED)
    assert ids_of(*results(store, batch)) == ["a"]


@pytest.mark.parametrize("owners", [1, 6])
async def test_owners_whose_batches_all_stall_leave_others_their_turns(store, monkeypatch, owners):
    monkeypatch.setattr(runner, "_PLACE_S", 0.1)
    for n in range(owners):
        for _ in range(4):  # three parts each, and two places
            send(store, map(input_line, IDS[:600]), owner=f"stalled{n}")

    async def answer(body: bytes, tenant: object) -> tuple[int, bytes]:
        if b"id-" in body:
            await asyncio.Event().wait()  # for a model that is away, or for tokens
        return 200, body

    async with running(store, answer) as at_work:
        await until(lambda: len(at_work._runs) == 2 * owners)
        for custom_id in "abcdef":
            batch = await ended(store, send(store, [input_line(custom_id)]))
            assert batch.status is Status.COMPLETED
        assert len(at_work._runs) == 2 * owners


@pytest.mark.parametrize("hangs_once", ["it is planned", "its parts are read"])
async def test_inputs_that_hang_keep_no_other_batch_waiting(store, monkeypatch, hangs_once):
    monkeypatch.setattr(runner, "_PLACE_S", 0.1)
    hung = threading.Event()
    name = "make_plan" if hangs_once == "it is planned" else "_listed"
    module = "deployments.batch_runner.work"
    read = {"make_plan": parts.make_plan, "_listed": work._listed}[name]

    def hanging(store: Store, batch: Batch, *args: object) -> object:
        if batch.owner != OWNER:
            hung.wait(30)
        return read(store, batch, *args)

    monkeypatch.setattr(f"{module}.{name}", hanging)
    for owner in "abcd":
        send(store, map(input_line, IDS[:300]), owner=owner)
    async with running(store, Answers(), threads=2) as at_work:
        await until(lambda: len(at_work._runs) == 4)
        assert (await ended(store, send(store, [input_line("a")]))).status is Status.COMPLETED
        hung.set()
        await until(lambda: not store.queue())


@pytest.mark.parametrize(("answered", "beside"), [(100, 0), (300, 1)])
async def test_a_batch_that_may_kill_runners_runs_alone_until_a_part_is_done(
    store, answered, beside
):
    other, suspect = (send(store, map(input_line, IDS), owner=owner) for owner in ("a", OWNER))
    store.save_batch(replace(store.batch(OWNER, suspect), starts=2))
    answers = Answers(most=answered)
    async with running(store, answers):
        await until(lambda: answers.seen.total() == answered)
        await until(lambda: len(store.parts(suspect)) == beside)
        await until(lambda: store.batch("a", other).starts == beside)
        await asyncio.sleep(0.3)  # in which one that may not start would
        assert store.batch("a", other).starts == beside
        assert not store.batch(OWNER, suspect).is_final


async def test_a_suspect_does_not_run_alone_for_long(store, monkeypatch):
    monkeypatch.setattr(runner, "_ALONE_S", 0.2)
    suspect, other = send(store, map(input_line, IDS)), send(store, [input_line("a")], owner="a")
    store.save_batch(replace(store.batch(OWNER, suspect), starts=2))
    async with running(store, Answers(most=0)):
        await until(lambda: store.batch("a", other).starts == 1)


async def test_a_batch_that_is_saved_late_runs(store, monkeypatch):
    put = Store._put

    def late(self, path, content):  # the record comes last, or the process ends before the queue
        if not path.startswith("queue/"):
            put(self, path, content)

    with monkeypatch.context() as dying:
        dying.setattr(Store, "_put", late)
        batch_id = send(store, [input_line("a")])
    assert store.queue() == {}
    async with running(store, Answers()):
        await until(lambda: store.batch(OWNER, batch_id).is_final)


async def test_a_queued_batch_without_a_record_leaves_the_queue(store):
    batch_id = send(store, [input_line("a")])
    store._delete(f"batches/{OWNER}/{batch_id}.json")
    async with running(store, Answers()):
        await until(lambda: not store.queue())


async def test_sweeping_goes_on_after_any_error(store, monkeypatch):
    monkeypatch.setattr(runner, "_SWEEP_S", 0.02)
    sweeps = []

    def failing(self, *args):
        sweeps.append(args)
        raise RuntimeError("unexpected")

    monkeypatch.setattr(Store, "sweep", failing)
    async with running(store, Answers()):
        await until(lambda: len(sweeps) > 2)


async def test_a_damaged_record_keeps_no_other_batch_waiting(store):
    for _ in range(2):
        damaged = send(store, [input_line("a")])
        store._put(f"batches/{OWNER}/{damaged}.json", {"id": 1})
        await asyncio.sleep(0.002)  # they come first
    async with running(store, Answers()):
        batch = await ended(store, send(store, [input_line("b")]))
        await until(lambda: not store.queue())  # they are given up
    assert batch.status is Status.COMPLETED
    assert damaged not in store.batches(OWNER)
    assert os.path.exists(f"{store._root}/damaged/{damaged}.json")


async def test_a_store_that_is_away_at_first(store):
    is_away = True

    def opening() -> Store:
        if is_away:
            raise StoreFailed("no such bucket")
        return store

    batch_id = send(store, [input_line("a")])
    async with running(opening, Answers()):
        await asyncio.sleep(0.2)
        is_away = False
        assert (await ended(store, batch_id)).status is Status.COMPLETED


async def test_a_slow_store_does_not_cost_the_lease(store, monkeypatch):
    monkeypatch.setattr(lease, "VALID_S", 0.5)
    listed = Store.queue

    def slow(self):
        time.sleep(1.0)  # twice as long as a lease lasts
        return listed(self)

    held, first = [], Answers(most=0)
    async with running(store, first, threads=1) as at_work:
        send(store, [input_line("a")])
        await until(lambda: first.begun)
        monkeypatch.setattr(Store, "queue", slow)
        for _ in range(20):
            held.append(at_work._lease.is_held)
            await asyncio.sleep(0.1)
    assert all(held)


async def test_a_runner_that_has_lost_its_lease_saves_no_batch(store, monkeypatch):
    monkeypatch.setattr(Lease, "check", lose)
    batch_id = send(store, [input_line("a")])
    before = store.batch(OWNER, batch_id)
    async with running(store, Answers()) as at_work:
        await until(lambda: at_work._rest_until)
    assert store.batch(OWNER, batch_id) == before
    assert batch_id in store.queue()


async def test_a_runner_that_has_lost_its_lease_keeps_no_results(store, monkeypatch):
    """One stands still as it writes the results, and goes on after another one has finished."""
    monkeypatch.setattr(lease, "VALID_S", 0.4)
    is_still, may_go_on = threading.Event(), threading.Event()
    results_of = parts._results

    def standing_still(*args):
        yield from results_of(*args)
        if not is_still.is_set():
            is_still.set()
            assert may_go_on.wait(20)

    monkeypatch.setattr(parts, "_results", standing_still)
    batch_id = send(store, map(input_line, IDS[:3]))
    async with running(store, Answers()):
        await until(is_still.is_set)
    async with running(store, Answers()):
        batch = await ended(store, batch_id)
        info = store.file(OWNER, batch.output_file_id)
        may_go_on.set()
        await until(lambda: len(store._infos("data")) == 2)  # the late one has dropped its own
    assert store.file(OWNER, batch.output_file_id) == info
    assert store.batch(OWNER, batch_id) == batch
    assert ids_of(*results(store, batch)) == IDS[:3]


def plan_of(store: Store, lines: list, longest: int = LONGEST) -> parts.Plan:
    return parts.make_plan(store, store.batch(OWNER, send(store, lines)), longest)


def test_parts_are_bounded_in_lines_texts_and_bytes(store):
    many = plan_of(store, list(map(input_line, IDS)))
    assert [p.lines for p in many.parts] == [256, 256, 256, 232]
    texts = plan_of(store, [input_line(i, input=["x"] * 1_000) for i in IDS[:5]])
    assert [p.lines for p in texts.parts] == [2, 2, 1]
    long = plan_of(store, [input_line(i, input="x" * 300_000) for i in IDS[:5]], 400_000)
    assert [p.lines for p in long.parts] == [3, 2]
    alone = plan_of(store, [input_line(i, input=["x"] * 3_000) for i in IDS[:2]])
    assert [p.lines for p in alone.parts] == [1, 1]


def test_the_parts_of_a_plan_hold_each_line_once(store):
    lines = [line for i in IDS for line in (input_line(i), b"")]
    batch = store.batch(OWNER, send(store, lines))
    plan = parts.make_plan(store, batch, LONGEST)
    assert parts.Plan.from_dict(plan.as_dict()) == plan
    read = [line for part in plan.parts for line in parts.lines_of(store, batch, plan, part)]
    assert [line.custom_id for line in read] == IDS
    assert [line.number for line in read] == list(range(1, 2_000, 2))


@pytest.mark.parametrize("content", [b"\n" * 200_000, b"\n" * 200_000 + b"x"])
def test_a_file_of_blank_lines_is_not_read_to_its_end(store, monkeypatch, content):
    monkeypatch.setattr(parts, "_MOST_INPUT_LINES", 1_000)
    reads = []
    monkeypatch.setattr(parts, "read_line", lambda *_: reads.append(1))
    batch = replace(store.batch(OWNER, send(store, [])), input_file_id=keep(store, content))
    with pytest.raises(parts.Refused) as refused:
        parts.make_plan(store, batch, LONGEST)
    assert [p.code for p in refused.value.problems] == ["too_many_requests"]
    assert len(reads) == 1_001

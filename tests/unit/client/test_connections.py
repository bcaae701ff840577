"""Connections over real sockets, without Ray: answers, cancelling, breaking, leaving, wrong peers."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress

import numpy as np
import pytest

from deployments.client import connections, direct_transport
from deployments.client.call import Call, Moved, ReplicaDied
from deployments.client.connection import Connection
from deployments.client.connections import Connections
from deployments.client.direct_transport import DirectTransport
from deployments.config.schema import ModelConfig
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import DeadlineExceeded, Overloaded, TextFailed
from deployments.core.lane import Lane
from deployments.replica import connection_server
from deployments.replica.connection_server import ConnectionServer
from deployments.wire import frames
from deployments.wire.calls import OtherVersion, Terms
from deployments.wire.frames import CallFrame, Kind
from deployments.wire.registry import Address
from deployments.wire.status import ReplicaState, ReplicaStatus, assume_ready

HOST = "127.0.0.1"
PATIENCE_S = 10.0
WAITING = {Lane.ONLINE: 0, Lane.OFFLINE: 0}


class Replica:
    """Answers each text with its first id, once it is open; or with what it is scripted to."""

    def __init__(self, reply=None):
        self.reply, self.calls, self.dropped = reply, [], 0
        self.open = asyncio.Event()
        self.open.set()
        self.status = ReplicaStatus(
            ReplicaState.READY, tokens_per_s=1_000, waiting=WAITING, space="space"
        )

    async def answer(self, call):
        self.calls.append(call)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        if isinstance(self.reply, Exception) and not hasattr(self.reply, "code"):
            raise self.reply
        firsts = [call.batch.text(row)[0] for row in range(len(call.batch))]
        return self.reply or Encoded(np.float32(firsts)[:, None], 0.5, 0.25)

    def said(self):
        return self.status

    def waiting(self):
        return WAITING


class NoHandle:
    """Stands for `HandleTransport`: counts what did not find a connection."""

    def __init__(self):
        self.calls = 0

    async def send(self, call):
        self.calls += 1
        return Encoded(np.full((len(call.batch), 1), -1, np.float32), 0, 0)


class Cluster:
    """Replicas with connection servers, and one client of them."""

    def __init__(self):
        self.servers, self.addresses, self.by_handle = {}, {}, NoHandle()
        self.known = set()
        self.connections = Connections("tiny", lambda: self.known, self.addresses.get)
        self.transport = DirectTransport("tiny", self.connections, self.by_handle, assume_ready)

    async def add(self, name, replica, **address):
        server = self.servers[name] = ConnectionServer(replica)
        fields = vars(await server.listen(HOST)) | address
        self.addresses[name] = Address(**fields)
        self.known.add(name)

    async def connected(self, count):
        """Returns once so many replicas have a connection."""
        self.connections.start()
        await until(lambda: len(self.connections.statuses()) == count)

    async def send(self, *firsts, timeout_s=PATIENCE_S, trial=None):
        batch = TokenBatch.from_lists([[first, 1] for first in firsts])
        call = Call(batch, Lane.ONLINE, time.monotonic() + timeout_s, "space", trial)
        return (await self.transport.send(call)).vectors[:, 0].tolist()


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(connections, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(connections, "_AGAIN_S", 0.02)
    monkeypatch.setattr(connection_server, "_STATUS_EVERY_S", 0.05)


@asynccontextmanager
async def running(*replicas):
    """Yields a client that is connected to replicas ``0``, ``1`` …"""
    cluster = Cluster()
    for number, replica in enumerate(replicas):
        await cluster.add(str(number), replica)
    await cluster.connected(len(replicas))
    try:
        yield cluster
    finally:
        cluster.connections.close()
        for server in cluster.servers.values():
            await server.close(0)


async def test_a_call_is_answered_over_the_line():
    replica = Replica()
    async with running(replica) as cluster:
        assert await cluster.send(7, 8) == [7, 8]
    assert cluster.by_handle.calls == 0
    [call] = replica.calls
    assert (call.lane, call.terms) == (Lane.ONLINE, Terms("space"))
    assert 0 < call.timeout_s <= PATIENCE_S


async def test_calls_share_a_line_and_each_gets_its_own_answer():
    async with running(Replica()) as cluster:
        answers = await asyncio.gather(*(cluster.send(n) for n in range(1, 200)))
    assert answers == [[n] for n in range(1, 200)]


async def test_large_calls_and_answers_arrive_whole():
    class Echo(Replica):
        async def answer(self, call):
            return Encoded(call.batch.ids.astype(np.float32).reshape(-1, 1_000), 0, 0)

    async with running(Echo()) as cluster:
        ids = np.arange(1_000_000, dtype=np.int32)
        batch = TokenBatch(ids, np.full(1_000, 1_000, np.int32))
        call = Call(batch, Lane.OFFLINE, time.monotonic() + PATIENCE_S, "space")
        encoded = await cluster.transport.send(call)
    assert encoded.vectors.shape == (1_000, 1_000)
    np.testing.assert_array_equal(encoded.vectors.ravel(), ids)


@pytest.mark.parametrize(
    ("reply", "raised"),
    [
        (Overloaded("full", None, 1.5), Overloaded),
        (OtherVersion(ModelConfig(name="acme/tiny"), "new"), Moved),
    ],
)
async def test_a_refusal_is_raised(reply, raised):
    async with running(Replica(reply)) as cluster:
        with pytest.raises(raised) as refused:
            await cluster.send(1)
    if raised is Overloaded:
        assert refused.value.retry_after_s == 1.5
    else:
        assert refused.value.version == reply


async def test_a_bug_in_the_replica_is_an_error_of_its_call_alone():
    replica = Replica(RuntimeError("a bug"))
    async with running(replica) as cluster:
        with pytest.raises(Exception, match="a bug"):
            await cluster.send(1)
        replica.reply = None
        assert await cluster.send(1) == [1]


async def test_the_error_of_a_text_comes_with_its_row():
    reply = Encoded(np.zeros((2, 1), np.float32), 0, 0, {1: TextFailed("not finite")})
    async with running(Replica(reply)) as cluster:
        call = Call(TokenBatch.from_lists([[1], [2]]), Lane.ONLINE, time.monotonic() + 9, "space")
        assert {r: type(e) for r, e in (await cluster.transport.send(call)).errors.items()} == {
            1: TextFailed
        }


async def test_a_caller_who_leaves_cancels_its_texts_and_the_others_are_answered():
    """Once an answer for a caller who had gone ended the loop that reads answers, for everybody."""
    replica = Replica()
    async with running(replica) as cluster:
        replica.open.clear()
        leaving, staying = (asyncio.create_task(cluster.send(n)) for n in (1, 2))
        await until(lambda: len(replica.calls) == 2)
        leaving.cancel()
        await until(lambda: replica.dropped == 1)
        replica.open.set()
        assert await staying == [2]
        assert await cluster.send(3) == [3]


class Wire:
    """A transport that keeps what is written."""

    def __init__(self):
        self.written = b""

    def write(self, data):
        self.written += data

    def get_write_buffer_size(self):
        return 0


class Deaf:
    """A `Listener`."""

    def __getattr__(self, _):
        return lambda *_: None


async def test_an_answer_that_crosses_its_cancelling_harms_nobody():
    connection = Connection("0", bytes(32), Deaf())
    connection.connection_made(Wire())
    connection.data_received(frames.welcome())
    call = Call(TokenBatch.from_lists([[1]]), Lane.ONLINE, time.monotonic() + 9, "space")
    leaving, staying = connection.begin(call), connection.begin(call)
    leaving.cancel()
    answers = [frames.answer(n, Encoded(np.float32([[n]]), 0, 0), {}) for n in (1, 2)]
    connection.data_received(b"".join(answers))
    assert (await staying).vectors.tolist() == [[2]]


async def test_the_deadline_cancels_the_call():
    replica = Replica()
    async with running(replica) as cluster:
        replica.open.clear()
        with pytest.raises(DeadlineExceeded):
            await cluster.send(1, timeout_s=0.05)
        await until(lambda: replica.dropped == 1)


async def test_a_broken_connection_is_a_death_at_once():
    replica = Replica()
    async with running(replica) as cluster:
        replica.open.clear()
        task = asyncio.create_task(cluster.send(1))
        await until(lambda: replica.calls)
        [connection] = cluster.servers["0"]._connections
        connection.close()
        with pytest.raises(ReplicaDied):
            await asyncio.wait_for(task, 1)


async def test_a_connection_that_broke_is_opened_again():
    async with running(Replica()) as cluster:
        [connection] = cluster.servers["0"]._connections
        connection.close()
        await until(lambda: not cluster.connections.statuses())
        await cluster.connected(1)
        assert await cluster.send(1) == [1]


async def test_a_replica_that_stops_answers_what_it_has_and_gets_nothing_more():
    first, second = Replica(), Replica()
    async with running(first, second) as cluster:
        first.open.clear()
        second.open.clear()
        tasks = [asyncio.create_task(cluster.send(n)) for n in (1, 2)]
        await until(lambda: first.calls and second.calls)
        closing = asyncio.create_task(cluster.servers["0"].close(PATIENCE_S))
        await asyncio.sleep(0.05)
        second.open.set()
        for n in range(3, 9):
            assert await cluster.send(n) == [n]
        assert len(first.calls) == 1
        first.open.set()
        assert sorted(await asyncio.gather(*tasks)) == [[1], [2]]
        await asyncio.wait_for(closing, PATIENCE_S)
        assert cluster.by_handle.calls == 0


async def test_a_replica_that_serve_no_longer_lists_gets_nothing_more():
    first, second = Replica(), Replica()
    async with running(first, second) as cluster:
        cluster.known.remove("0")
        await cluster.connected(1)
        for n in range(1, 5):
            await cluster.send(n)
    assert (len(first.calls), len(second.calls)) == (0, 4)


async def test_without_a_line_calls_go_by_handle():
    cluster = Cluster()
    assert await cluster.send(1) == [-1]
    cluster.connections.close()


@pytest.mark.parametrize("address", [{"version": 0}, {"token": bytes(32)}, {"port": 1}])
async def test_a_replica_that_cannot_be_reached_is_called_by_handle(address, caplog):
    """An older protocol, a wrong token, and a port that nobody listens on. The log says so once."""
    cluster = Cluster()
    await cluster.add("0", Replica(), **address)
    cluster.connections.start()
    await until(lambda: "no connection to replica 0" in caplog.text)
    await asyncio.sleep(0.1)
    assert await cluster.send(1) == [-1]
    assert caplog.text.count("no connection to replica 0") == 1
    cluster.connections.close()
    await cluster.servers["0"].close(0)


async def test_a_client_of_another_protocol_version_is_told_ours():
    async with running(Replica()) as cluster:
        reply = await talk(cluster, frames.hello(cluster.servers["0"].token, version=0))
        (welcome,) = frames.FrameReader().feed(reply)
        assert frames.read_welcome(welcome) == frames.VERSION


GOOD_CALL = frames.call(
    1, CallFrame(TokenBatch.from_lists([[5]]), Lane.ONLINE, 9.0, Terms("space"))
)


async def talk(cluster, *sent, shows_token=False):
    """Sends these bytes to replica 0, and returns what it answers until it closes the connection."""
    address = cluster.addresses["0"]
    reader, writer = await asyncio.open_connection(address.host, address.port)
    if shows_token:
        writer.write(frames.hello(address.token))
        await reader.read(1)
    for data in sent:
        writer.write(data)
        with suppress(OSError):
            await writer.drain()
    async with asyncio.timeout(PATIENCE_S):
        with suppress(OSError):
            return await reader.read()
        return b""


@pytest.mark.parametrize(
    "sent",
    [
        [frames.hello(bytes(32)), GOOD_CALL],  # a wrong token
        [GOOD_CALL],  # none
        [b"GET / HTTP/1.1\r\nHost: replica\r\n\r\n"],
        [bytes(1_000)],
        [b"\xff" * 1_000_000],
    ],
    ids=["wrong token", "no token", "HTTP", "zeros", "ones"],
)
async def test_a_stranger_gets_no_word_and_no_call_through(sent):
    replica = Replica()
    async with running(replica) as cluster:
        assert await talk(cluster, *sent) == b""
        assert replica.calls == []
        assert await cluster.send(2) == [2]


async def test_a_stranger_who_says_nothing_is_closed(monkeypatch):
    monkeypatch.setattr(connection_server, "_HELLO_S", 0.05)
    async with running(Replica()) as cluster:
        assert await talk(cluster) == b""


@pytest.mark.parametrize(
    "sent",
    [
        [frames.frame(Kind.CALL, 1, b"too short")],
        [frames.frame(Kind.WELCOME)],
        [b"\xff" * 64],
        [GOOD_CALL, GOOD_CALL],  # the same number twice
    ],
    ids=["cut call", "wrong kind", "garbage", "same number"],
)
async def test_a_client_that_sends_garbage_is_closed_and_the_others_go_on(sent):
    replica = Replica()
    async with running(replica) as cluster:
        if len(sent) > 1:
            replica.open.clear()
        await talk(cluster, *sent, shows_token=True)
        replica.open.set()
        assert await cluster.send(2) == [2]


async def test_a_frame_that_is_cut_off_drops_nothing_but_itself():
    replica = Replica()
    async with running(replica) as cluster:
        address = cluster.addresses["0"]
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(frames.hello(address.token) + GOOD_CALL[:-3])
        await writer.drain()
        await until(lambda: len(cluster.servers["0"]._connections) == 2)
        writer.close()
        await until(lambda: len(cluster.servers["0"]._connections) == 1)
        assert await cluster.send(2) == [2]
    assert len(replica.calls) == 1


async def test_a_client_that_goes_drops_its_texts():
    replica = Replica()
    async with running(replica) as cluster:
        replica.open.clear()
        address = cluster.addresses["0"]
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(frames.hello(address.token) + GOOD_CALL)
        await until(lambda: replica.calls)
        writer.close()
        await until(lambda: replica.dropped == 1)


@pytest.mark.parametrize("reply", [b"\xff" * 64, frames.frame(Kind.ANSWER, 1, b"no vectors")])
async def test_a_replica_that_sends_garbage_has_died_for_its_calls(reply):
    status = frames.status(ReplicaStatus(ReplicaState.READY, waiting=WAITING, space="space"))

    async def replica(reader, writer):
        await reader.readexactly(len(frames.hello(bytes(32))))
        writer.write(frames.welcome() + status)
        await reader.readexactly(len(GOOD_CALL))
        writer.write(reply)

    server = await asyncio.start_server(replica, HOST, 0)
    cluster = Cluster()
    port = server.sockets[0].getsockname()[1]
    cluster.addresses["0"] = Address(HOST, port, bytes(32), frames.VERSION)
    cluster.known.add("0")
    await cluster.connected(1)
    with pytest.raises(ReplicaDied):
        await asyncio.wait_for(cluster.send(1), PATIENCE_S)
    cluster.connections.close()
    server.close()


@pytest.fixture
def hung(monkeypatch):
    """Replicas that say nothing for 0.2 s count as hung, and calls are looked at often."""
    monkeypatch.setattr("deployments.client.balancing.SILENT_AFTER_S", 0.2)
    monkeypatch.setattr(direct_transport, "_LOOK_EVERY_S", 0.02)


def hang(cluster, name):
    """Stops a replica from answering and from saying how it is, as SIGSTOP does."""
    server = cluster.servers[name]
    server._replica.open.clear()
    server._ticking.cancel()


async def test_what_a_hung_replica_has_goes_to_another_one(hung):
    first, second = Replica(), Replica()
    async with running(first, second) as cluster:
        hang(cluster, "0")
        tasks = [asyncio.create_task(cluster.send(n)) for n in range(1, 33)]
        assert sorted(await asyncio.gather(*tasks)) == [[n] for n in range(1, 33)]
        assert first.calls
        await until(lambda: first.dropped == len(first.calls))  # once another has answered
        for n in range(1, 9):
            assert await cluster.send(n) == [n]
        assert first.dropped == len(first.calls)


async def test_a_trial_stays_with_its_replica(hung):
    first, second = Replica(), Replica()
    async with running(first, second) as cluster:
        first.open.clear()
        second.open.clear()
        task = asyncio.create_task(cluster.send(1, trial="t"))
        await until(lambda: first.calls or second.calls)
        hang(cluster, "0" if first.calls else "1")
        await asyncio.sleep(0.5)
        assert len(first.calls) + len(second.calls) == 1
        first.open.set()
        second.open.set()
        assert await task == [1]


async def test_a_pass_that_hangs_does_not_take_its_text_to_another_replica(hung):
    """The text may be the cause: it would hang the other replica, too."""
    first, second = Replica(), Replica()
    async with running(first, second) as cluster:
        first.open.clear()  # its loop goes on and says how it is, but its passes do not end
        second.open.clear()
        task = asyncio.create_task(cluster.send(1))
        await asyncio.sleep(0.6)
        assert len(first.calls) + len(second.calls) == 1
        first.open.set()
        second.open.set()
        assert await task == [1]


async def test_a_replica_that_is_silent_for_long_has_died(hung, monkeypatch):
    monkeypatch.setattr(connections, "_DEAD_AFTER_S", 0.4)
    async with running(Replica()) as cluster:
        hang(cluster, "0")
        with pytest.raises(ReplicaDied):
            await asyncio.wait_for(cluster.send(1), PATIENCE_S)

"""`python -m bench.kv_events`: a KvEventActor from the wire to its public socket and to the bus.

The actor runs in a process of its own. The bench is its engine's publisher, a reader of its public
events, and a reader of topic `kv` at its door; it keeps some batches under way and sends the next
when one has come out on both sides. So what is counted has come all the way, and nothing is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import socket
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import psutil
import uvloop
import zmq

from actors.kv_events.actor import KvEventActor
from bench import machine
from bench.table import Table, publish
from bus.clock import LoopClock
from bus.envelope import decode
from bus.runtime import Addresses, Identity, Runtime
from bus.zmq_transport import ZmqTransport
from schemas.block_hash import unpack
from schemas.kv import KvChanged
from schemas.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, EventBatch

BLOCK_SIZE = 16
CACHE = 30_000
"""Blocks that are held; after that every stored block evicts one."""
GOAL = 100_000
UNDER_WAY = 200_000
"""Events that are under way at once, at most 256 batches."""
NOBLOCK = int(zmq.NOBLOCK)
NOTE = f"""\
The best of {{rounds}} rounds: others on the machine only ever take time away. \
Batches as a busy vLLM makes them: half of the events store one block of {BLOCK_SIZE} tokens (ids \
below 152,000) after the block before it, half remove one; {CACHE:,} blocks are held. Each batch \
is decoded, its tokens are hashed, it goes out as it came and as a KvChanged, and the bench has \
received both. Bench and actor share the cores; CPU is the actor's own, all threads. \
Goal: {GOAL:,} events/s. vLLM makes one batch a step."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kv_events")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    table = Table(
        "KvEventActor: from the wire to the public socket and the bus",
        {
            "size": "events/batch",
            "rate": "events/s",
            "batches": "batches/s",
            "cpu": "actor CPU µs/event",
            "bytes": "bytes/event",
            "met": "goal",
        },
    )
    rounds = [
        [measure(size, options.seconds) for size in options.sizes] for _ in range(options.rounds)
    ]
    for rows in zip(*rounds, strict=True):
        table.rows.append(max(rows, key=lambda row: row["rate"]))
    table.notes.append(NOTE.format(rounds=options.rounds))
    publish("kv_events", [table], machine.record())


def measure(size: int, seconds: float) -> dict[str, Any]:
    """One actor, fed for so long with batches of so many events."""
    ports = _free_ports(6)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(ports, theirs))
    process.start()
    try:
        assert ours.recv() == "ready"
        assert process.pid is not None
        return _feed(ports, size, seconds, psutil.Process(process.pid))
    finally:
        ours.send("stop")
        process.join()


def _feed(ports: Sequence[int], size: int, seconds: float, actor: psutil.Process) -> dict[str, Any]:
    public, _, control, _, source, _ = ports
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sub, door, pub = (context.socket(kind) for kind in (zmq.SUB, zmq.SUB, zmq.PUB))
    for one in (sub, door, pub):
        one.linger = 0
        one.set_hwm(100_000)
    sub.connect(f"tcp://127.0.0.1:{public}")
    sub.subscribe("")
    door.connect(f"tcp://127.0.0.1:{control}")
    door.subscribe("kv")
    pub.connect(f"tcp://127.0.0.1:{source}")
    sequence = _join(pub, sub, door)
    batches = _batches(size, int(GOAL * seconds) + 2 * CACHE)
    warm = 2 * CACHE // size
    most = max(2, min(256, UNDER_WAY // size))
    sent = came = told = 0
    start = cpu = 0.0
    stored = counted = 0
    while came < len(batches) or told < len(batches):
        while sent < len(batches) and sent - min(came, told) < most:
            _send(pub, sequence + sent, batches[sent])
            sent += 1
        if min(came, told) >= warm and not start:
            start, cpu = time.perf_counter(), _cpu(actor)
            counted = min(came, told)
        came += _take(sub)
        for message in _messages(door):
            told += message.sequence + 1 - (message.first or message.sequence)
            stored += sum(len(unpack(c.blocks)) for c in message.changes if c.kind == "stored")
    took, cpu = time.perf_counter() - start, _cpu(actor) - cpu
    assert stored >= size * len(batches) // 2, "some blocks did not reach the bus"
    events = (len(batches) - counted) * size
    context.destroy(linger=0)
    return {
        "size": size,
        "rate": round(events / took),
        "batches": round(events / size / took),
        "cpu": round(cpu / events * 1e6, 2),
        "bytes": round(sum(map(len, batches[:100])) / size / min(100, len(batches))),
        "met": "met" if events / took >= GOAL else "",
    }


def _join(pub: zmq.Socket[bytes], sub: zmq.Socket[bytes], door: zmq.Socket[bytes]) -> int:
    """Until batches come all the way; returns the next number."""
    sequence = 0
    clear = msgspec.msgpack.encode(EventBatch(0.0, [AllBlocksCleared()], 0))
    heard = [False, False]
    while not all(heard):
        _send(pub, sequence, clear)
        sequence += 1
        heard[0] |= bool(sub.poll(20))
        heard[1] |= bool(door.poll(20))
    time.sleep(0.5)
    while _take(sub) or list(_messages(door)):
        time.sleep(0.1)
    return sequence


def _send(pub: zmq.Socket[bytes], sequence: int, payload: bytes) -> None:
    """As `send_multipart`, in a quarter of its time: the bench shares the cores with the actor."""
    pub.send(b"", zmq.SNDMORE)
    pub.send(sequence.to_bytes(8, "big"), zmq.SNDMORE)
    pub.send(payload)


def _take(sub: zmq.Socket[bytes]) -> int:
    """How many batches there are now; waits a moment if there are none."""
    count = 0
    if not sub.poll(1):
        return 0
    receive = sub.recv
    while True:
        try:
            receive(NOBLOCK)
        except zmq.Again:
            return count
        receive()
        receive()
        count += 1


def _messages(door: zmq.Socket[bytes]) -> list[KvChanged]:
    messages: list[KvChanged] = []
    while True:
        try:
            _, message, _ = decode(door.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return messages
        if isinstance(message, KvChanged):
            messages.append(message)


def _batches(size: int, events: int) -> list[bytes]:
    """Encoded beforehand. Chains of 20 blocks."""
    made = random.Random(size)
    held: deque[int] = deque()
    ids = [made.randrange(152_000) for _ in range(50_000)]
    batches, chain, at = [], None, 0
    encode = msgspec.msgpack.Encoder().encode
    for _ in range(events // size):
        batch: list[Any] = []
        while len(batch) < size:
            if len(held) > CACHE and len(batch) + 1 < size + (size == 1):
                batch.append(BlockRemoved([held.popleft()], "GPU", group_idx=0))
                if len(batch) == size:
                    break
            at += 1
            chain = None if at % 20 == 0 else chain
            block = made.getrandbits(64)
            first = made.randrange(len(ids) - BLOCK_SIZE)
            tokens = ids[first : first + BLOCK_SIZE]
            batch.append(
                BlockStored([block], chain, tokens, BLOCK_SIZE, None, "GPU", None, group_idx=0)
            )
            held.append(block)
            chain = block
        batches.append(encode(EventBatch(time.time(), batch, 0)))
    return batches


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _serve(ports: Sequence[int], pipe: Connection) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_live(ports, pipe))


async def _live(ports: Sequence[int], pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    public, replay, control, ask, source, _ = ports
    options = {
        "engine": "engine/0",
        "rank": 0,
        "source": f"tcp://127.0.0.1:{source}",
        "port": public,
        "replay_port": replay,
        "control_port": control,
        "ask_port": ask,
    }
    with tempfile.TemporaryDirectory() as directory:
        names = [f"ipc://{directory}/{name}" for name in ("m", "o", "cm", "co")]
        runtime = Runtime(
            KvEventActor(),
            Identity("kv-events/0.0", time.time_ns() // 1_000_000),
            Addresses(*names),
            ZmqTransport(loop),
            LoopClock(loop),
            options=options,
            register=False,
        )
        runtime.start()
        pipe.send("ready")
        await loop.run_in_executor(None, pipe.recv)
        await runtime.stop()


if __name__ == "__main__":
    main()

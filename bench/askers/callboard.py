"""Callboard's bus: two actors, each with its runtime, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import tempfile
from typing import Any

import structlog
import uvloop

from bench.askers import pattern
from bench.server import free_port
from bus.actor import Actor, Incoming
from bus.clock import LoopClock
from bus.identity import CONFIG, Addresses, Identity
from bus.runtime import Runtime
from bus.zmq_transport import ZmqTransport
from schemas.config import Config, GetConfig
from schemas.directory import (
    Deregister,
    Entries,
    Entry,
    EntryChanged,
    ListEntries,
    Register,
    Registered,
    Renew,
)
from schemas.placement import PlacementEnded
from schemas.supervise import Accepted, ListProcesses, Restart

TURN = 64
"""Tells handed over before the loop gets its turn."""
MUCH = 1024
"""Waiting messages at which the teller pauses, well below the bus's limit."""


class Answerer(Actor):
    """Echoes and counts, in ConfigActor's place: two processes are all that is measured."""

    kind = "config"
    accepts = (
        Deregister,
        GetConfig,
        ListEntries,
        ListProcesses,
        PlacementEnded,
        Register,
        Renew,
        Restart,
    )

    def on_start(self, options: dict[str, Any]) -> None:
        self.told = 0
        self.entries: list[Entry] = []
        self.rt.ready()

    def on_message(self, incoming: Incoming) -> None:
        message = incoming.message
        if isinstance(message, Restart):
            incoming.answer(Accepted(message.actor))
        elif isinstance(message, PlacementEnded):
            self.told += 1
        elif isinstance(message, ListProcesses):
            incoming.answer(Accepted(str(self.told)))
        elif isinstance(message, Register):
            self.entries = [self.rt.entry(), message.entry]
            self.rt.learn(EntryChanged(1, message.entry))
            incoming.answer(Registered(1, 3600.0, self.entries))
        elif isinstance(message, GetConfig):
            incoming.answer(Config(1, {}, {}))
        elif isinstance(message, ListEntries):
            incoming.answer(Entries(1, self.entries))


class Asker(Actor):
    kind = "asker"

    def __init__(self) -> None:
        self.started = asyncio.Event()

    def on_start(self, options: dict[str, Any]) -> None:
        self.started.set()

    async def ask(self, payload: str) -> None:
        await self.rt.request(CONFIG, Restart(payload))

    async def tell(self, payload: str, count: int) -> None:
        for sent in range(count):
            self.rt.tell(CONFIG, PlacementEnded(payload))
            if sent % TURN == TURN - 1:
                await asyncio.sleep(0)
                # The bus has no event for "room again": an actor looks at its queue now and then.
                while any(queue.depth > MUCH for queue in self.rt.queues()):  # noqa: ASYNC110
                    await asyncio.sleep(0)

    async def counted(self) -> int:
        answer = await self.rt.request(CONFIG, ListProcesses())
        assert isinstance(answer, Accepted)
        return int(answer.detail)


def _runtime(actor: Actor, name: str, mailbox: str, outbox: str, own: str) -> Runtime:
    """`mailbox` and `outbox` are the answering side's, `own` is what the asking side binds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    loop = asyncio.get_running_loop()
    answers = name == CONFIG
    binds = (mailbox, outbox) if answers else (own, f"{own}.out")
    return Runtime(
        actor,
        Identity(name, 1),
        Addresses(*binds, mailbox, outbox),
        ZmqTransport(loop),
        LoopClock(loop),
        options={} if answers else None,
    )


def serve(mailbox: str, outbox: str, own: str) -> None:
    async def main() -> None:
        _runtime(Answerer(), CONFIG, mailbox, outbox, own).start()
        await asyncio.Event().wait()

    uvloop.run(main())


async def main(options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        endpoints = [f"ipc://{folder}/mailbox", f"ipc://{folder}/outbox"]
        if options.transport == "tcp":
            endpoints = [f"tcp://127.0.0.1:{free_port()}" for _ in endpoints]
        addresses = (*endpoints, f"ipc://{folder}/asker")
        spawn = multiprocessing.get_context("spawn")
        server = spawn.Process(target=serve, args=addresses, daemon=True)
        server.start()
        asker = Asker()
        runtime = _runtime(asker, "asker/0", *addresses)
        runtime.start()
        await asyncio.wait_for(asker.started.wait(), 30)
        pattern.report(await pattern.measure(asker, options.sizes, options.seconds))
        await runtime.stop()
        server.terminate()
        server.join()


if __name__ == "__main__":
    parser = pattern.arguments(__doc__)
    parser.add_argument("--transport", choices=("ipc", "tcp"), default="ipc")
    uvloop.run(main(parser.parse_args()))

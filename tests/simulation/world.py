"""A whole topology in one thread: real runtimes and actors on a simulated network.

`World` plays the supervisor's part too: it starts lives, kills them, and lets everybody know.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar

import structlog

from bus.actor import Actor
from bus.clock import VirtualClock
from bus.envelope import Frame
from bus.runtime import CONFIG, Addresses, Identity, Runtime
from bus.sim_network import SimNetwork, SimNode
from schemas.life import Died

SUPERVISOR = "supervisor/0"


class Watcher(Actor):
    """Stands for the supervisor: it only says who died."""

    kind: ClassVar[str] = "supervisor"

    def on_start(self, options: dict[str, Any]) -> None:
        self.rt.ready()


class Life:
    """One life of one actor."""

    def __init__(self, runtime: Runtime, node: SimNode) -> None:
        self.runtime = runtime
        self.node = node
        self.stopped = False

    @property
    def actor(self) -> Actor:
        return self.runtime.actor


class World:
    """Use within a running asyncio loop. Same seed and same calls: same `digest`."""

    def __init__(
        self,
        seed: int,
        *,
        loss: float = 0.0,
        keep_log: bool = False,
        fixed_endpoints: bool = False,
        on_end: Callable[[str, int, str], None] = lambda *_: None,
    ) -> None:
        """`on_end` hears of every end of a life: whose, which one, how."""
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        self.random = Random(seed)
        self.clock = VirtualClock()
        self.network = SimNetwork(self.clock, self.random, loss=loss, on_delivery=self._delivered)
        self.lives: dict[str, Life] = {}
        self.past: list[Life] = []
        self.log: list[str] = []
        self._keep_log = keep_log
        self._fixed_endpoints = fixed_endpoints  # of all lives of an actor; never do that
        self._digest = hashlib.sha256()
        self._incarnations: dict[str, int] = {}
        self._on_end = on_end

    async def run(self, seconds: float) -> None:
        """Nothing happens between two events of the network but what tasks have left to do."""
        ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]  # asks nobody
        await self.clock.play(self.clock.now() + seconds, idle=lambda: not ready)

    def at(self, seconds: float, call: Callable[[], None]) -> None:
        """Make a call that many seconds from now."""
        self.clock.call_later(seconds, call)

    def start(
        self,
        name: str,
        actor: Actor,
        options: dict[str, Any] | None = None,
        *,
        incarnation: int | None = None,
    ) -> Life:
        """A new life; `options` only for who does not ask ConfigActor."""
        incarnation = incarnation or self._incarnations.get(name, 0) + 1
        self._incarnations[name] = incarnation
        node = self.network.node(name)
        stem = f"sim://{name}" if self._fixed_endpoints else f"sim://{name}.{incarnation}"
        config = f"sim://{CONFIG}"
        mailbox, outbox = (
            (f"{config}.m", f"{config}.o") if name == CONFIG else (f"{stem}.m", f"{stem}.o")
        )
        runtime = Runtime(
            actor,
            Identity(name, incarnation),
            Addresses(mailbox, outbox, f"{config}.m", f"{config}.o"),
            node,
            node.clock,
            options=options,
            on_stopped=lambda: self._stopped(name, life),
        )
        life = Life(runtime, node)
        self.lives[name] = life
        self.say(f"start {name} {incarnation}")
        runtime.start()
        return life

    def crash(self, name: str, *, notice: float | None = 0.05) -> None:
        """Kill it; everybody is told `notice` seconds later, unless that is None."""
        life = self.lives.pop(name)
        self.past.append(life)
        incarnation = life.runtime.identity.incarnation
        self.say(f"crash {name} {incarnation}")
        life.node.crash()
        self._on_end(name, incarnation, "killed by SIGKILL")
        if notice is not None:
            self.at(notice, lambda: self._announce(Died(name, incarnation, "killed by SIGKILL")))

    def say(self, text: str, frames: Sequence[Frame] = ()) -> None:
        """A line of the log, which two runs of one seed must have in common."""
        line = f"{self.clock.now():.9f} {text}"
        self._digest.update(line.encode())
        for frame in frames:
            self._digest.update(frame)
        if self._keep_log:
            self.log.append(f"{line} {b' '.join(bytes(frame) for frame in frames)!r}")

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def all_lives(self) -> list[Life]:
        return [*self.lives.values(), *self.past]

    def _announce(self, died: Died) -> None:
        if watcher := self.lives.get(SUPERVISOR):
            watcher.runtime.publish("life", died)
            watcher.runtime.learn(died)

    def _delivered(self, now: float, source: str, target: str, frames: Sequence[Frame]) -> None:
        self.say(f"{source} -> {target}", frames)

    def _stopped(self, name: str, life: Life) -> None:
        life.stopped = True
        self._on_end(name, life.runtime.identity.incarnation, "exit code 0")


def play(scenario: Callable[[], Any]) -> Any:
    """Run an async scenario, and fail if it left a task behind."""

    async def main() -> Any:
        result = await scenario()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result

    return asyncio.run(main())

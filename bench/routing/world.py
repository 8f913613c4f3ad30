"""The topology in virtual time: real actors and runtimes on a simulated network, one thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import structlog

from actors.config.actor import ConfigActor
from actors.kv_events.actor import KvEventActor
from actors.router.actor import RouterActor
from actors.router.policies import USES_EVENTS
from bench.routing import workload
from bench.routing.driver import AnswerError, Driver, Sample
from bench.routing.engine import VirtualEngine
from bench.routing.kv_events import reader
from bench.routing.workload import Workload
from bus.actor import Actor
from bus.clock import Clock, VirtualClock
from bus.journal.recorder import Recorder
from bus.runtime import CONFIG, Addresses, Identity, Runtime
from bus.sim_network import SimNetwork

MODEL = "sim"
DRIVER = "gateway/0"
SETTLE = 3.0
"""Seconds until all have found each other."""
PAUSE = 1.0
"""Seconds between the last answer of a stage and the next stage."""

RecorderOf = Callable[[Identity, Clock], Recorder | None]
"""What records an actor, on its clock; it is closed at the end."""


def unrecorded(_identity: Identity, _clock: Clock) -> None:
    return None


class World:
    """Engines, their KvEventActors where the policy wants events, a router and a driver.

    `settings` are the router's, `seed` is the network's.
    """

    def __init__(
        self,
        load: Workload,
        settings: dict[str, Any],
        timing: str,
        seed: int = 0,
        recorder_of: RecorderOf = unrecorded,
    ) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        self.clock = VirtualClock()
        self.network = SimNetwork(self.clock, Random(seed))
        self._recorder_of = recorder_of
        self.load = load
        self.samples: list[Sample] = []
        self.starts: list[float] = []
        self._open = 0
        events = settings["policy"] in USES_EVENTS
        self.router = RouterActor()
        self.driver = Driver(
            load.prompts(), workload.OUTPUT, workload.BLOCK_SIZE, MODEL, self._ended
        )
        flags = {
            "model": MODEL,
            "block_size": workload.BLOCK_SIZE,
            "num_gpu_blocks_override": load.blocks,
            "max_num_seqs": workload.MAX_SEQS,
            "max_num_batched_tokens": workload.BATCHED_TOKENS,
            "max_model_len": min(workload.MODEL_LENGTH, (load.blocks - 1) * workload.BLOCK_SIZE),
            "sim_timing": timing,
        }
        options: dict[str, dict[str, Any]] = {"router/0": settings}
        actors: dict[str, Actor] = {"router/0": self.router, DRIVER: self.driver}
        for number in range(load.engines):
            if events:
                actors[f"kv-events/{number}.0"] = KvEventActor()
                options[f"kv-events/{number}.0"] = reader(number)
            actors[f"engine/{number}"] = VirtualEngine(flags, number, events=events)
        options |= {name: {} for name in actors if name not in options}
        self._start(CONFIG, ConfigActor(), {"actors": options})
        self._runtimes = [self._start(name, actor) for name, actor in actors.items()]

    async def run(self) -> None:
        """The whole ladder. Raises `AnswerError` if not all went as it should."""
        await self.clock.play(SETTLE)
        for number, (_, times) in enumerate(self.load.arrivals()):
            self.starts.append(self.clock.now())
            self._open = len(times)
            for at in times:
                self.clock.call_later(at, partial(self.driver.send, number))
            while self._open:
                self._run(0.5)
                self._check()
            self._run(PAUSE)
        for runtime in self._runtimes:
            await runtime.stop()
            if runtime.recorder is not None:
                runtime.recorder.close()

    def _run(self, seconds: float) -> None:
        self.clock.run(self.clock.now() + seconds)

    def _check(self) -> None:
        problems = self.router.core.state.problems
        if self.driver.trouble or problems:
            raise AnswerError(self.driver.trouble or "; ".join(problems))

    def _ended(self, sample: Sample) -> None:
        self.samples.append(sample)
        self._open -= 1

    def _start(self, name: str, actor: Actor, options: dict[str, Any] | None = None) -> Runtime:
        node = self.network.node(name)
        addresses = [f"sim://{who}.{what}" for who in (name, CONFIG) for what in "mo"]
        identity = Identity(name, 1)
        runtime = Runtime(
            actor,
            identity,
            Addresses(*addresses),
            node,
            node.clock,
            options=options,
            recorder=self._recorder_of(identity, node.clock),
        )
        runtime.start()
        return runtime


def run(
    load: Workload, settings: dict[str, Any], timing: str, recorder_of: RecorderOf = unrecorded
) -> World:
    async def main() -> World:
        world = World(load, settings, timing, recorder_of=recorder_of)
        await world.run()
        return world

    return asyncio.run(main())

"""Run a topology until it is stopped: `callboard serve` and `callboard up` end here."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvloop

from bus.clock import LoopClock
from bus.runtime import Identity, Runtime
from bus.zmq_transport import ZmqTransport
from launch.addresses import SUPERVISOR, ipc_addresses
from launch.marks import mark
from launch.recording import recorder_of
from launch.rundir import RunDir
from launch.supervision import Supervision
from launch.supervisor.actor import SupervisorActor
from launch.supervisor.core import SupervisorCore
from launch.supervisor.processes import become_subreaper
from schemas.progress import DIRECTORY as PROGRESS


@dataclass(frozen=True, slots=True)
class Progress:
    """One actor's news. `seconds` since the topology was started."""

    actor: str
    state: str
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `actors` maps ids to their options, in the order of their start."""

    name: str
    document: Mapping[str, Any]
    actors: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, str]
    """For the actors' processes: secrets travel here, never in arguments."""
    log_level: str = "info"
    supervision: Supervision = field(default_factory=Supervision)
    drain_timeout: float = 30.0
    """Seconds that an actor has for what it has begun."""


def run_topology(
    plan: Plan,
    run_dir: RunDir,
    *,
    on_progress: Callable[[Progress], None],
    on_ready: Callable[[], None],
) -> str:
    """Blocks until every process of the topology is gone. Returns why it failed, or "".

    `run_dir` is claimed by the caller, who also releases it. SIGINT and SIGTERM drain.
    """
    run_dir.write_config(plan.document, plan.actors)
    become_subreaper()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_supervise(plan, run_dir, on_progress, on_ready))


async def _supervise(
    plan: Plan,
    run_dir: RunDir,
    on_progress: Callable[[Progress], None],
    on_ready: Callable[[], None],
) -> str:
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[str] = loop.create_future()
    started = loop.time()
    said: dict[str, tuple[str, str]] = {}

    def on_change(core: SupervisorCore) -> None:
        for process in core.state.processes.values():
            news = (process.state, process.detail)
            if process.incarnation and said.get(process.actor) != news:
                said[process.actor] = news
                on_progress(Progress(process.actor, *news, loop.time() - started))
        if core.state.said_ready and "" not in said:
            said[""] = ("ready", "")
            on_ready()

    def on_finish(reason: str) -> None:
        if not finished.done():
            finished.set_result(reason)

    actor = SupervisorActor(
        plan.name,
        list(plan.actors),
        run_dir,
        log_level=plan.log_level,
        environment={
            **plan.environment,
            **mark(run_dir.path),
            PROGRESS: str(run_dir.scratch.shared()),
        },
        supervision=plan.supervision,
        drain_timeout=plan.drain_timeout,
        on_change=on_change,
        on_finish=on_finish,
    )
    identity = Identity(SUPERVISOR, time.time_ns() // 1_000_000)
    recorder = recorder_of(run_dir, identity)
    runtime = Runtime(
        actor,
        identity,
        ipc_addresses(run_dir, identity),
        ZmqTransport(loop),
        LoopClock(loop),
        options={},
        host=socket.gethostname(),
        # A supervisor that fails itself must not leave the command waiting for its actors.
        on_stopped=lambda: on_finish(runtime.detail or "the supervisor stopped"),
        recorder=recorder,
    )
    # SIGHUP: the terminal was closed.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, actor.shut_down)
    runtime.start()
    try:
        return await finished
    finally:
        await runtime.stop()
        recorder.close()

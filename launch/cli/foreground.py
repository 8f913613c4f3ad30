"""Runs a topology in the foreground: progress, the line to paste, logs, and the end."""

from __future__ import annotations

import time

from actors.monitor.canary import PAYLOAD
from bus.identity import Identity
from launch.actors import actors_of, document_of
from launch.addresses import SUPERVISOR, ipc_addresses
from launch.cli.console import FAILED, INTERRUPTED, OK, USAGE, Failure, say
from launch.cli.display import Display
from launch.cli.ready import ready_text
from launch.held_port import held
from launch.logs import configure_logging
from launch.recording import prepare
from launch.rundir import RunDir, RunDirError, claim, release
from launch.supervisor.run import Plan, Progress, run_topology
from launch.topology import Topology


def run_in_foreground(
    topology: Topology, keys: list[str], environment: dict[str, str], started: float
) -> int:
    """Blocks until the topology ended; returns the exit code.

    `started` is on the monotonic clock. Raises `Failure` where it cannot start, or failed.
    """
    plan = Plan(
        name=topology.name,
        document=document_of(topology),
        actors=actors_of(topology, api_keys=bool(keys)),
        environment={**_canary(topology), **environment},
        log_level=topology.log.level,
        supervision=topology.supervision,
        drain_timeout=topology.drain_timeout,
    )
    run_dir = _claim(plan)
    served = False

    def on_ready() -> None:
        nonlocal served
        served = True
        display.ready(ready_text(topology, keys, time.monotonic() - started))

    def on_progress(progress: Progress) -> None:
        display.progress(progress.actor, progress.state, progress.detail)

    try:
        configure_logging(
            level=topology.log.level,
            fmt="json",
            actor=SUPERVISOR,
            incarnation=_now_ms(),
            file=run_dir.log_file(SUPERVISOR),
        )
        actors = [*plan.actors, SUPERVISOR]
        with (
            held(topology.gateway.host, topology.gateway.port),
            Display(actors, run_dir.logs, topology.log.format, started) as display,
        ):
            prepare(topology.record, run_dir)
            reason = run_topology(plan, run_dir, on_progress=on_progress, on_ready=on_ready)
    finally:
        release(run_dir)
    if reason:
        raise Failure(reason, code=FAILED)
    say("stopped")
    return OK if served else INTERRUPTED


def _canary(topology: Topology) -> dict[str, str]:
    """The monitor reads its request from the environment, as others do who send one."""
    payload = topology.health.canary_payload
    return {} if payload is None else {PAYLOAD: payload}


def _claim(plan: Plan) -> RunDir:
    """The run directory, in which every actor's sockets find room. Raises `Failure`."""
    try:
        run_dir = claim(plan.name)
        try:
            for actor in plan.actors:
                ipc_addresses(run_dir, Identity(actor, _now_ms()))
        except RunDirError:
            release(run_dir)
            raise
    except RunDirError as error:
        raise Failure(str(error), code=USAGE) from None
    return run_dir


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

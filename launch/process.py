"""One actor as a process: `python -m launch.process engine/0 INCARNATION RUN_DIR`."""

from __future__ import annotations

import argparse
import asyncio
import atexit
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bus.clock import LoopClock
from bus.runtime import CONFIG, Identity, Runtime
from bus.zmq_transport import ZmqTransport
from launch.addresses import ipc_addresses
from launch.kinds import make_actor
from launch.logs import configure_logging, set_level
from launch.recording import recorder_of
from launch.rundir import RunDir
from launch.supervisor.processes import LAST_WORDS, OUTSIDE
from launch.vllm_logs import route_vllm_logs

SUPERVISOR_PID = "CALLBOARD_SUPERVISOR_PID"
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ORPHAN_DRAIN, ORPHAN_KILL, ORPHAN_END = 1.0, 2.5, 3
"""Seconds without a supervisor: for what runs, for a stop in order, and for all.

Nothing can go on elsewhere then, and within 5 s nobody is to be left. What comes on top: until
Python sees the signal (0.33 s at most while vLLM is imported on a CPU, where C functions hold the
GIL), and until the kernel has cleared up (0.55 s for the 13 processes of an engine on an H100).
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.process")
    parser.add_argument("actor")
    parser.add_argument("incarnation", type=int)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--drain-timeout", type=float, default=30.0)
    arguments = parser.parse_args(argv)
    identity = Identity(arguments.actor, arguments.incarnation)
    configure_logging(
        level=arguments.log_level,
        fmt="json",
        actor=identity.actor,
        incarnation=identity.incarnation,
    )
    if identity.actor.startswith("engine/"):
        route_vllm_logs(
            arguments.run_dir / f"vllm-logging-{identity.actor.replace('/', '-')}.json",
            level=arguments.log_level,
            actor=identity.actor,
            incarnation=identity.incarnation,
        )
    end_with_parent()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        reason, code = runner.run(
            live(identity, RunDir(arguments.run_dir), arguments.drain_timeout)
        )
    if reason:
        say_last_words(reason)
    return code


async def live(identity: Identity, run_dir: RunDir, drain_timeout: float) -> tuple[str, int]:
    """One life, from the first socket to the last. Returns why it failed, or "", and exit code.

    A signal drains it, within `drain_timeout` seconds.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    recorder = recorder_of(run_dir, identity)
    runtime = Runtime(
        make_actor(identity.actor),
        identity,
        ipc_addresses(run_dir, identity),
        ZmqTransport(loop),
        LoopClock(loop),
        options=config_options(run_dir) if identity.actor == CONFIG else None,
        host=socket.gethostname(),
        on_stopped=stopped.set,
        recorder=recorder,
        set_log_level=set_level,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, runtime, drain_timeout)
    # What was imported stays. Looking through it for garbage would hold up the loop now and then:
    # 12 ms of CPU time in a monitor, 22 ms in a gateway, and longer where others want the CPU too.
    gc.freeze()
    runtime.start()
    await stopped.wait()
    recorder.close()
    if not runtime.failed:
        return "", 0
    return runtime.detail, OUTSIDE if runtime.ended_outside else 1


def _end(runtime: Runtime, drain_timeout: float) -> None:
    """Drain; quickly where the signal says that the supervisor died."""
    if not _orphaned():
        runtime.drain(drain_timeout)
        return
    # All of its session: what vLLM has just spawned is not bound to its parent yet.
    asyncio.get_running_loop().call_later(ORPHAN_KILL, os.killpg, os.getpid(), signal.SIGKILL)
    signal.alarm(ORPHAN_END)  # by the kernel, should the loop stand still
    runtime.drain(ORPHAN_DRAIN)


def _orphaned() -> bool:
    parent = os.environ.get(SUPERVISOR_PID)
    return parent is not None and os.getppid() != int(parent)


def config_options(run_dir: RunDir) -> dict[str, Any]:
    """ConfigActor cannot ask anybody: the supervisor left its options in the run directory."""
    options: dict[str, Any] = msgspec.json.decode(run_dir.config_file.read_bytes())
    return options


def end_with_parent() -> None:
    """SIGTERM when the supervisor dies, however it dies: no actor outlives its topology."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if _orphaned():
        sys.exit("the supervisor died while this actor was being started")


class Exit:
    """Ends this process once all else that is registered for its exit is done, with `code`.

    Python would take itself down object by object, which takes it 5 s where vLLM is imported, and
    the next life waits for that. To be made first, since what is registered first is called last.
    """

    def __init__(self) -> None:
        self.code = 1  # also where an error that nobody handles ends it
        atexit.register(self._leave)

    def _leave(self) -> None:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.code)


def say_last_words(reason: str) -> None:
    """Tell the supervisor why; without one (started by hand) say it on stderr."""
    descriptor = os.environ.get(LAST_WORDS)
    if descriptor is None:
        sys.stderr.write(f"{reason}\n")
        return
    os.write(int(descriptor), reason.encode()[:4096])


if __name__ == "__main__":
    leaving = Exit()
    leaving.code = main()

"""An engine as processes, for a monitor to watch: `player.py RUN_DIR LIFE PROGRESS_DIR [mute]`.

SIGUSR1 hangs its loop. Orders on its standard input go to its inner process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from bus.actor import Actor, Incoming
from bus.clock import LoopClock
from bus.runtime import Identity, Runtime
from bus.zmq_transport import ZmqTransport
from launch.addresses import ipc_addresses
from launch.process import end_with_parent
from launch.rundir import RunDir
from schemas.directory import ModelCard
from schemas.generate import Delta, Generate, Step
from schemas.message import Message

CARD = ModelCard(
    model="m",
    served_names=["m"],
    engine="player",
    engine_version="1",
    context_length=4096,
    block_size=16,
    num_blocks=100,
    max_num_seqs=64,
    max_batched_tokens=512,
    ranks=1,
    role="aggregated",
    tokenizer="",
)


class Player(Actor):
    kind: ClassVar[str] = "engine"
    accepts: ClassVar[tuple[type[Message], ...]] = (Generate,)

    def __init__(self, *, mute: bool) -> None:
        self._mute = mute

    def on_start(self, options: dict[str, Any]) -> None:
        self.rt.ready(CARD)

    def on_message(self, incoming: Incoming) -> None:
        if not self._mute:
            stream = incoming.header.correlation
            self.rt.batch(incoming.identity, Step([Delta(stream, [1], "length")]))
            self.rt.ended(incoming)


async def main() -> None:
    run_dir, life, progress, *rest = sys.argv[1:]
    identity = Identity("engine/0", int(life))
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    runtime = Runtime(
        Player(mute="mute" in rest),
        identity,
        ipc_addresses(RunDir(Path(run_dir)), identity),
        ZmqTransport(loop),
        LoopClock(loop),
        options={},
        host=socket.gethostname(),
        on_stopped=stopped.set,
    )
    loop.add_signal_handler(signal.SIGTERM, runtime.drain, 1.0)
    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))
    inner = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.actors.monitor.inner", progress, life
    )
    runtime.start()
    await stopped.wait()
    inner.kill()
    await inner.wait()


if __name__ == "__main__":
    os.environ["CALLBOARD_SUPERVISOR_PID"] = str(os.getppid())
    end_with_parent()
    asyncio.run(main())

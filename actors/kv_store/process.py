"""The server's process: LMCache's own program, in the actor's session."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

from actors.kv_store.options import Options

PATIENCE = 5.0
"""Seconds that it has to end in order."""
ENVIRONMENT = {
    "LMCACHE_TRACK_USAGE": "false",
    "LMCACHE_DISABLE_BANNER": "1",
    "LMCACHE_LOG_LEVEL": "WARNING",
}
"""What it gets unless the operator set it: it reports to nobody, and logs what matters."""


def words(options: Options, parent: int) -> list[str]:
    """Arguments for Python."""
    flags = {
        "--host": options.host,
        "--port": options.port,
        "--http-host": options.host,
        "--http-port": options.http_port,
        "--l1-size-gb": options.memory_gb,
        "--eviction-policy": "LRU",
        "--chunk-size": options.chunk_tokens,
        "--max-workers": options.workers,
        "--supported-transfer-mode": "auto",
    }
    given = [str(word) for pair in flags.items() for word in pair]
    return ["-m", "actors.kv_store.lmcache_server", str(parent), *given]


class Server:
    """One life of the server. `on_end` gets a phrase for a person, once, unless it was stopped."""

    def __init__(self, arguments: list[str], on_end: Callable[[str], None]) -> None:
        self._arguments = arguments
        self._on_end = on_end
        self._process: asyncio.subprocess.Process | None = None
        self._life = asyncio.ensure_future(self._live())

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def stop(self) -> None:
        """Returns when it has ended: in order if it does so soon, else killed."""
        self._on_end = _nobody
        process = self._process
        if process is None:
            self._life.cancel()
            return
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), PATIENCE)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _live(self) -> None:
        """Its output goes where the actor's goes."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            stdin=asyncio.subprocess.DEVNULL,
            env={**ENVIRONMENT, **os.environ},
        )
        self._process = process
        self._on_end(describe(await process.wait()))


def describe(code: int) -> str:
    """A phrase for a return code as `subprocess` gives it."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _nobody(_cause: str) -> None:
    """Its end was asked for."""

"""A VllmBackend, a loop to run it on, and a sink that remembers all that was said."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from actors.engine.vllm.backend import VllmBackend
from schemas.directory import ModelCard
from schemas.generate import Delta, Generate, Sampling
from schemas.load import Load
from schemas.transfer import TransferState

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which a wait has failed; nothing here takes nearly so long."""


class Recorder:
    """The sink. `changed` is set whenever something was said."""

    def __init__(self) -> None:
        self.steps: list[list[tuple[int, Delta]]] = []
        self.loads: list[Load] = []
        self.deaths: list[str] = []
        self.lost_keys: dict[int, str] = {}
        self.transfers: list[TransferState] = []
        self.changed = asyncio.Event()

    def waits(self, what: str) -> None:
        self.changed.set()

    def step(self, deltas: Sequence[tuple[int, Delta]]) -> None:
        self.steps.append(list(deltas))
        self.changed.set()

    def load(self, load: Load) -> None:
        self.loads.append(load)
        self.changed.set()

    def lost(self, key: int, text: str) -> None:
        self.lost_keys[key] = text
        self.changed.set()

    def transfer(self, state: TransferState) -> None:
        self.transfers.append(state)
        self.changed.set()

    def dead(self, reason: str, *, outside: bool = False) -> None:
        self.deaths.append(reason)
        self.changed.set()

    def of(self, key: int) -> list[Delta]:
        return [delta for step in self.steps for k, delta in step if k == key]

    def ended(self, *keys: int) -> bool:
        return all(any(d.finish_reason for d in self.of(key)) for key in keys)

    def newest(self, rank: int = 0) -> Load:
        return next(load for load in reversed(self.loads) if load.rank == rank)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Bench:
    """One engine, driven from tests that are no coroutines."""

    def __init__(self, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.sink: Recorder
        self.backend: VllmBackend
        self.card: ModelCard
        self._options = options
        self._key = 0

    def start(self) -> Bench:
        self.run(self._start())
        return self

    def stop(self) -> None:
        self.run(self.backend.stop())
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def _start(self) -> None:
        self.sink = Recorder()
        self.backend = VllmBackend(self._options)
        self.card = await self.backend.start(self.sink)

    def submit(self, sampling: Sampling, *tokens: int, **request: Any) -> int:
        """Returns the key; the stream is the key plus 1000."""
        self._key += 1
        message = Generate("client-id", "model", sampling, token_ids=list(tokens), **request)
        self.backend.submit(self._key, self._key + 1000, message)
        return self._key

    async def answer(self, sampling: Sampling, *tokens: int, **request: Any) -> list[Delta]:
        key = self.submit(sampling, *tokens, **request)
        await self.sink.until(lambda: self.sink.ended(key))
        return self.sink.of(key)

    def processes(self) -> list[Any]:
        engine = self.backend._starting
        assert engine is not None
        return engine.result().processes

    def kill_core(self) -> None:
        core = next(p for p in self.processes() if p.name.startswith("EngineCore"))
        os.kill(core.pid, signal.SIGKILL)


def tokens_of(deltas: Sequence[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]

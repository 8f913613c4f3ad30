"""The shell of KvStoreActor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, ClassVar

from actors.kv_store.asking import NoAnswer, Told, ask
from actors.kv_store.core import KvStoreCore
from actors.kv_store.events import (
    Answered,
    Began,
    Effect,
    Ended,
    Event,
    Fail,
    Say,
    Serve,
    Silent,
)
from actors.kv_store.journal import CODEC, Settings
from actors.kv_store.options import Options, read
from actors.kv_store.process import Server, words
from bus.actor import Actor

TOPIC = "kv-store"
INTERVAL = 1.0
"""Seconds between two looks at the server."""


class KvStoreActor(Actor):
    """Runs LMCache's server for the engines of this machine, and says how it is.

    It is ready when the server is. When the server ends the actor does, and the supervisor starts
    both anew; engines go on meanwhile, and find nothing.
    """

    kind: ClassVar[str] = "kv-store"

    def __init__(
        self,
        ask: Callable[[str, int], Told] = ask,
        arguments: Callable[[Options, int], list[str]] = words,
    ) -> None:
        self._ask = ask
        self._arguments = arguments
        self._server: Server | None = None
        self._looking: asyncio.Task[None] | None = None

    def on_start(self, options: dict[str, Any]) -> None:
        """Raises `ValueError` for options that cannot be."""
        self._options = read(options)
        self.core = KvStoreCore(self._options.memory_bytes)
        settings = Settings(self._options.memory_bytes)
        self._decide = self.rt.recorded(CODEC, self.core, settings)
        self._server = Server(self._arguments(self._options, os.getpid()), self._ended)
        self._handle(Began(self._now()))
        self._looking = asyncio.ensure_future(self._look())

    def facts(self) -> dict[str, str]:
        if self._server is None:
            return {}
        options, state = self._options, self.core.state.said
        found = {
            "server": f"LMCache at {options.host}:{options.port}, pid {self._server.pid}",
            "chunk": f"{options.chunk_tokens} tokens",
        }
        if state is None:
            return found
        used, memory = state.used_bytes >> 20, state.memory_bytes >> 20
        return found | {
            "memory": f"{used} of {memory} MiB in {state.objects} chunks",
            "tokens": f"{state.hit_tokens} found of {state.requested_tokens} asked for",
        }

    async def on_stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        if self._server is not None:
            await self._server.stop()

    async def _look(self) -> None:
        """Until cancelled."""
        host, port = self._options.host, self._options.http_port
        while True:
            try:
                told = await asyncio.to_thread(self._ask, host, port)
            except NoAnswer as error:
                self._handle(Silent(self._now(), str(error)))
            else:
                self._handle(
                    Answered(
                        self._now(),
                        told.healthy,
                        told.used_bytes,
                        told.objects,
                        told.requested_tokens,
                        told.hit_tokens,
                    )
                )
            await asyncio.sleep(INTERVAL)

    def _ended(self, cause: str) -> None:
        self._handle(Ended(cause))

    def _handle(self, event: Event) -> None:
        for effect in self._decide(event):
            self._run(effect)

    def _run(self, effect: Effect) -> None:
        if isinstance(effect, Serve):
            self.rt.ready()
        elif isinstance(effect, Say):
            self.rt.publish(TOPIC, effect.state)
        elif isinstance(effect, Fail):
            self.rt.fail(effect.reason)
        elif self.rt.state == "ready":
            self.rt.set_state("ready", effect.why)

    def _now(self) -> float:
        return self.rt.clock.now()

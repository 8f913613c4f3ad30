"""GatewayActor without HTTP: choices are ordered by the test, and what came of them is kept."""

from __future__ import annotations

from typing import Any

from actors.gateway.actor import WATCH, GatewayActor
from actors.gateway.choice import Order
from actors.gateway.core import GatewayCore
from actors.gateway.health import Health
from actors.gateway.streams import Streams
from schemas.block_hash import prompt_hashes
from schemas.directory import ModelCard
from schemas.generate import Delta, Generate, Sampling
from tests.simulation.caching import SIZE, prompt
from tests.simulation.cast import MODEL
from tests.simulation.plan import Request


class Told:
    """What the client of one choice got."""

    def __init__(self, request: Request, gateway: Headless) -> None:
        self.request = request
        self.gateway = gateway
        self.tokens: list[int] = []
        self.ends: list[str] = []

    def push(self, delta: Delta) -> bool:
        self.tokens += delta.token_ids
        if delta.finish_reason is not None:
            self.ends.append(delta.finish_reason)
        return False

    def fail(self, code: str, message: str, param: str | None) -> None:
        self.ends.append(f"{code}: {message}")

    def wait(self) -> None:
        """Nobody looks."""


class _Models:
    """No text, so no tokenizers."""

    def learn(self, engine: str, card: ModelCard) -> None: ...

    def forget(self, engine: str) -> None: ...


class Headless(GatewayActor):
    """The real actor, core and streams."""

    def on_start(self, options: dict[str, Any]) -> None:
        self.core = GatewayCore()
        self.models = _Models()  # type: ignore[assignment]  # all that is asked of it here
        self.streams = Streams(self.rt, self.core, 1000, lambda: None)
        self._started = True
        for entry in self.rt.directory.entries():
            self.on_entry(entry)
        self.rt.clock.call_later(WATCH, self._watch)
        self._check_ready()

    def send(self, request: Request) -> Told:
        told = Told(request, self)
        name, tokens = f"r{request.at}", prompt(request.story, request.blocks)
        sampling = Sampling(max_tokens=request.tokens)
        order = Order(
            Generate(name, MODEL, sampling, tokens),
            name,
            len(tokens),
            request.tokens,
            told,
            blocks=prompt_hashes(tokens, SIZE),
            block_size=SIZE,
        )
        self.streams.submit([order])
        return told

    def health(self) -> Health:
        return Health("ok", self.rt.identity.actor, len(self.streams), None, {}, [], [])

    def facts(self) -> dict[str, str]:
        return {}

    async def on_stop(self) -> None:
        """There is no server."""

    def _check_ready(self) -> None:
        engines = self.core.state.fleet.engines.values()
        if self.rt.state == "starting" and any(engine.ready for engine in engines):
            self.rt.ready()

"""The actors of a simulated topology: the real ones, an engine that counts, and a busy asker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random
from typing import Any, ClassVar

from actors.engine.actor import EngineActor
from actors.engine.backend import Sink
from bus.actor import Actor
from bus.clock import Clock
from schemas.directory import ModelCard
from schemas.generate import Delta, Generate, Sampling, Step
from schemas.life import Describe
from schemas.load import Load
from schemas.message import Message
from schemas.placement import Place, PlacementEnded
from schemas.refusal import Refusal

STEP = 0.01
MODEL = "m"


class CountingBackend:
    """An engine whose tokens are 0, 1, 2 …, one for every request in every step.

    What another began it continues.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: dict[int, tuple[int, int, int]] = {}  # key -> stream, made, wanted
        self._stopped = False
        self._ticking = False

    async def start(self, sink: Sink) -> ModelCard:
        self._sink = sink
        self._report()
        return ModelCard(
            model=MODEL,
            served_names=[MODEL],
            engine="counting",
            engine_version="1",
            context_length=4096,
            block_size=16,
            num_blocks=100,
            max_num_seqs=64,
            max_batched_tokens=512,
            ranks=1,
            role="aggregated",
            tokenizer="",
            resumes=True,
        )

    def submit(self, key: int, stream: int, request: Generate) -> None:
        self._running[key] = (stream, len(request.resumed), request.sampling.max_tokens or 1)
        if not self._ticking:
            self._ticking = True
            self._clock.call_later(STEP, self._step)

    def abort(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._running.pop(key, None)

    def unread(self, request_id: str, transfer: dict[str, Any]) -> None:
        """It keeps nothing for others."""

    async def stop(self) -> None:
        self._stopped = True
        self._running.clear()

    @property
    def running(self) -> int:
        return len(self._running)

    def _step(self) -> None:
        self._ticking = False
        if self._stopped:
            return
        deltas = []
        for key, (stream, made, wanted) in list(self._running.items()):
            last = made + 1 == wanted
            deltas.append((key, Delta(stream, [made], "length" if last else None)))
            if last:
                del self._running[key]
            else:
                self._running[key] = (stream, made + 1, wanted)
        self._sink.step(deltas)
        self._report()
        if self._running:
            self._ticking = True
            self._clock.call_later(STEP, self._step)

    def _report(self) -> None:
        self._sink.load(Load(0, 100, len(self._running), 0, len(self._running), 0, 0, 0))


class CountingEngine(EngineActor):
    """The real EngineActor on a `CountingBackend`."""

    def on_start(self, options: dict[str, Any]) -> None:
        self.backend = CountingBackend(self.rt.clock)
        self._backend = self.backend
        self._loading = asyncio.ensure_future(self._load())


class Asked:
    """One ask or stream, and how it ended: never more than one way."""

    def __init__(self, to: str, at: float, timeout: float | None, tokens: int = 0) -> None:
        self.to = to
        self.at = at
        self.timeout = timeout
        self.wanted = tokens
        self.tokens: list[int] = []
        self.ends: list[tuple[float, str]] = []


class Asker(Actor):
    """Places requests, streams their tokens, asks who is who, and gives some of them up."""

    kind: ClassVar[str] = "gateway"
    listens: ClassVar[dict[str, tuple[str, ...]]] = {"engine": ("load",)}

    def __init__(self, random: Random, *, pause: float = 0.05, until: float = 1e9) -> None:
        self.random = random
        self.pause = pause
        self.until = until
        self.asked: list[Asked] = []
        self.streams: dict[int, Asked] = {}

    def on_start(self, options: dict[str, Any]) -> None:
        self.rt.ready()
        self._next()

    def on_batch(self, sender: str, message: Message) -> None:
        assert isinstance(message, Step)
        for delta in message.deltas:
            asked = self.streams.get(delta.stream)
            if asked is None:
                continue  # given up
            asked.tokens += delta.token_ids
            if delta.finish_reason is not None:
                self.rt.finish(delta.stream)
                del self.streams[delta.stream]
                self._ended(asked, delta.finish_reason)

    def _next(self) -> None:
        now = self.rt.clock.now()
        if now >= self.until:
            return
        getattr(self, self.random.choice(["_place", "_generate", "_describe"]))()
        if self.streams and self.random.random() < 0.1:
            self._give_up()
        self.rt.clock.call_later(self.random.uniform(0, 2 * self.pause), self._next)

    def _place(self) -> None:
        asked = self._ask("router/0", Place(f"r{len(self.asked)}", MODEL, 10, 10), 1.0)
        self.rt.tell("router/0", PlacementEnded(f"r{len(self.asked) - 1}"))
        assert asked.to == "router/0"

    def _describe(self) -> None:
        to = self.random.choice(["engine/0", "engine/1", "router/0", "config/0", "nobody/0"])
        self._ask(to, Describe(), self.random.uniform(0.001, 1.0))

    def _ask(self, to: str, message: Message, timeout: float) -> Asked:
        asked = Asked(to, self.rt.clock.now(), timeout)
        self.asked.append(asked)
        self.rt.ask(to, message, lambda answer: self._done(asked, answer), timeout=timeout)
        return asked

    def _generate(self) -> None:
        to = self.random.choice(["engine/0", "engine/1"])
        self.generate(to, self.random.randint(1, 40), self.random.choice([0.2, 5.0, None]))

    def generate(self, to: str, tokens: int, timeout: float | None) -> None:
        """Stream tokens, and watch that they come in order."""
        asked = Asked(to, self.rt.clock.now(), timeout, tokens)
        self.asked.append(asked)
        request = Generate(f"r{len(self.asked)}", MODEL, Sampling(max_tokens=tokens), [1])

        def done(answer: Message) -> None:
            self.streams.pop(correlation, None)
            self._done(asked, answer)

        correlation = self.rt.stream(to, request, done, timeout=timeout)
        self.streams[correlation] = asked

    def _give_up(self) -> None:
        correlation = self.random.choice(list(self.streams))
        self.rt.cancel(correlation)
        self._ended(self.streams.pop(correlation), "given up")

    def _done(self, asked: Asked, answer: Message) -> None:
        how = answer.code if isinstance(answer, Refusal) else type(answer).__name__
        self._ended(asked, how)

    def _ended(self, asked: Asked, how: str) -> None:
        asked.ends.append((self.rt.clock.now(), how))

"""A gateway with a real HTTP server, on a bus and with engines that are played here."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

import httpx
import structlog

from actors.gateway import GatewayActor
from bus.clock import LoopClock
from bus.directory import Directory
from bus.identity import Identity
from bus.runtime import Runtime
from schemas.agreement import Agreement, AskAgreement
from schemas.directory import Entry, EntryChanged, ModelCard
from schemas.generate import Candidate, Delta, Generate, Step
from schemas.life import State
from schemas.message import Message
from schemas.placement import Place
from schemas.refusal import Refusal

Script = Callable[[int, Generate], Iterable[Delta | Refusal | None]]
"""(stream, request) -> what the engine says, a step each. None: it says nothing any more."""

CARD = ModelCard(
    model="/models/echo",
    served_names=["m", "alias"],
    engine="sim",
    engine_version="1",
    context_length=400,
    block_size=16,
    num_blocks=100,
    max_num_seqs=8,
    max_batched_tokens=512,
    ranks=1,
    role="aggregated",
    tokenizer="",
    vocab_size=260,
    eos_token_ids=[257],
    max_logprobs=5,
)


def says(text: str, *, reason: str = "stop", per_delta: int = 1) -> Script:
    """An engine that answers `text`, a byte a token, then EOS; or less, at the limit."""

    def script(stream: int, request: Generate) -> Iterator[Delta]:
        sampling = request.sampling
        tokens = list(text.encode())
        limit = sampling.max_tokens or 10_000
        reason_now = reason
        tokens = [*tokens, 257] if reason == "stop" else tokens
        if len(tokens) > limit:
            tokens, reason_now = tokens[:limit], "length"
        for at in range(0, len(tokens), per_delta):
            ids = tokens[at : at + per_delta]
            last = at + per_delta >= len(tokens)
            rows = None
            if sampling.logprobs is not None:
                rows = [row(token, sampling.logprobs) for token in ids]
            prompt_rows: list[list[Candidate] | None] | None = None
            if sampling.prompt_logprobs is not None and at == 0:
                rest = (row(token, sampling.prompt_logprobs) for token in request.token_ids[1:])
                prompt_rows = [None, *rest]
            yield Delta(
                stream,
                ids,
                reason_now if last else None,  # type: ignore[arg-type]
                None,
                rows,
                prompt_rows,
                len(request.token_ids) if at == 0 or last else None,
                3 if at == 0 or last else None,
            )

    return script


def row(token: int, top: int) -> list[Candidate]:
    """The sampled token, which is also the likeliest, and others."""
    best = [Candidate(token, -0.5, 1), *(Candidate(65 + i, -1.0 - i, 2 + i) for i in range(top))]
    return [best[0], *best[:top]]


@dataclass
class FakeBus:
    """Plays `Runtime` for one gateway."""

    actor: GatewayActor
    scripts: dict[str, Script] = field(default_factory=dict)
    placed: Callable[[Place], Message | None] | None = None

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = LoopClock(self.loop)
        self.directory = Directory()
        self.identity = Identity("gateway/0", 1)
        self.counters: Counter[str] = Counter()
        self.log = structlog.get_logger()
        self.requests: list[Generate] = []
        self.asks: list[Place] = []
        self.told: list[tuple[str, Message]] = []
        self.published: list[Message] = []
        self.cancelled: list[int] = []
        self.open: dict[int, Callable[[Message], None]] = {}
        self.failed = ""
        self.state: State = "starting"
        self.detail = ""
        self._ids = itertools.count(1)
        self._ends: dict[int, asyncio.TimerHandle | asyncio.Handle] = {}

    # --- what the actor calls ---

    def recorded(self, codec: Any, core: Any, settings: object) -> Any:
        return core.handle

    def ready(self, card: ModelCard | None = None) -> None:
        self.state = "ready"

    def set_state(self, state: State, detail: str) -> None:
        self.state, self.detail = state, detail

    def fail(self, reason: str) -> None:
        self.failed = reason

    def count(self, name: str, n: int = 1) -> None:
        self.counters[name] += n

    def tell(self, to: str, message: Message) -> bool:
        self.told.append((to, message))
        return True

    def publish(self, topic: str, message: Message) -> None:
        self.published.append(message)

    def ask(self, to: str, message: Message, done: Callable[[Message], None], **_: Any) -> int:
        if isinstance(message, AskAgreement):
            self.loop.call_soon(done, Agreement([]))
            return next(self._ids)
        assert isinstance(message, Place)
        self.asks.append(message)
        correlation = next(self._ids)
        assert self.placed is not None
        answer = self.placed(message)
        if answer is not None:
            self.loop.call_soon(lambda: done(answer))
        return correlation

    def stream(self, to: str, message: Generate, done: Callable[[Message], None], **_: Any) -> int:
        self.requests.append(message)
        correlation = next(self._ids)
        self.open[correlation] = done
        said = iter(self.scripts[to](correlation, message))
        self.loop.call_soon(self._say, to, correlation, said)
        return correlation

    def finish(self, correlation: int) -> None:
        self.open.pop(correlation, None)

    def cancel(self, correlation: int) -> None:
        if self.open.pop(correlation, None) is not None:
            self.cancelled.append(correlation)

    # --- the engines ---

    def _say(self, engine: str, stream: int, said: Iterator[Delta | Refusal | None]) -> None:
        if stream not in self.open:
            return
        word = next(said, None)
        if isinstance(word, Refusal):
            self.open.pop(stream)(word)
        elif word is not None:
            self.actor.on_batch(engine, Step([word]))
            self.loop.call_soon(self._say, engine, stream, said)


class World:
    """`async with World(says("hi")) as world:` serves on a free port."""

    def __init__(
        self,
        *scripts: Script,
        card: ModelCard = CARD,
        router: Callable[[Place], Message | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._scripts = scripts
        self._card = card
        self._router = router
        self._options = {"port": 0, **(options or {})}

    async def __aenter__(self) -> Self:
        self.actor = GatewayActor()
        self.bus = FakeBus(self.actor, placed=self._router)
        self.actor.rt = cast("Runtime", self.bus)
        self.actor.on_start(self._options)
        assert not self.bus.failed, self.bus.failed
        assert self.actor._opening is not None
        await self.actor._opening
        for number, script in enumerate(self._scripts):
            self.bus.scripts[f"engine/{number}"] = script
            self.enter(f"engine/{number}", card=self._card)
        if self._router is not None:
            self.enter("router/0")
        await self.loaded()
        self.client = httpx.AsyncClient(base_url=self.url, timeout=20)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.client.aclose()
        await self.actor.on_stop()

    @property
    def url(self) -> str:
        return self.actor.server.address

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def enter(self, actor: str, card: ModelCard | None = None, state: str = "ready") -> None:
        """The directory has a new or changed entry."""
        entry = Entry(actor, 1, "", "", state, 1, "", card=card)  # type: ignore[arg-type]
        self.bus.directory.apply(EntryChanged(0, entry), 0.0)
        self.actor.on_entry(entry)

    async def loaded(self) -> None:
        """All tokenizers have been read."""
        for _, model in self.actor.models.offered():
            await model.text()

    async def chat(self, **fields: Any) -> httpx.Response:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    async def complete(self, **fields: Any) -> httpx.Response:
        return await self.client.post(
            "/v1/completions", json={"model": "m", "prompt": "hi", **fields}
        )

    def idle(self) -> bool:
        """Nothing runs and nothing is remembered of what ran."""
        return not (len(self.actor.streams) or self.bus.open or self.actor.core.state.choices)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the loop to make it so."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


def events(response: httpx.Response) -> list[Any]:
    """The parsed `data:` lines of a stream, without the closing `[DONE]`, which must be there."""
    import json

    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

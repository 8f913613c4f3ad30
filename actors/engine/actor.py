"""The shell of EngineActor: one engine, `vllm` or `sim`, behind the bus."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from actors.engine.backend import Backend, InvalidRequest, KvLost
from actors.engine.core import (
    HELD,
    Abort,
    Asked,
    Draining,
    Effect,
    EndLife,
    EngineCore,
    EngineDied,
    Event,
    Loaded,
    Lost,
    PeerLost,
    Refuse,
    Rejected,
    Send,
    Stepped,
    Submit,
    Withdrawn,
)
from actors.engine.journal import CODEC, Settings
from actors.engine.kv_publisher import INCARNATION
from actors.engine.load import LoadGate
from actors.engine.progress import ENGINE
from bus.actor import Actor, Incoming
from bus.clock import Timer
from bus.envelope import trace_id
from schemas.directory import ModelCard
from schemas.generate import Delta, Generate
from schemas.life import Queue
from schemas.load import Load
from schemas.message import Message
from schemas.transfer import TransferState, TransferUnread

BEAT = 1.0
"""Seconds between reports of an unchanged load, for who joined late."""

VLLM_PUBLISHES = (
    "KV events come from vLLM's own publisher, which can stall the engine: install callboard where "
    "vLLM runs, and name it in VLLM_PLUGINS if that is set"
)


class EngineActor(Actor):
    """Owns one engine. Tokens go to gateways in one message per gateway and engine step."""

    kind: ClassVar[str] = "engine"
    accepts: ClassVar[tuple[type[Message], ...]] = (Generate, TransferUnread)

    def __init__(self) -> None:
        self.core = EngineCore()
        self._decide: Callable[[Event], list[Effect]] = self.core.handle
        self.card: ModelCard | None = None
        self._variables: dict[str, str] = {}
        self._backend: Backend | None = None
        self._loading: asyncio.Task[None] | None = None
        self._streams: dict[tuple[str, int], Incoming] = {}
        self._transfer: TransferState | None = None
        self._gate = LoadGate()
        self._gate_timer: Timer | None = None

    # --- hooks of the runtime ---

    def on_start(self, options: dict[str, Any]) -> None:
        # For what of ours is at work in whatever process of the engine.
        identity = self.rt.identity
        self._variables = {INCARNATION: str(identity.incarnation), ENGINE: identity.actor}
        os.environ.update(self._variables)
        self._decide = self.rt.recorded(CODEC, self.core, Settings())
        self._backend = make_backend(options)
        self._loading = asyncio.ensure_future(self._load())

    def on_message(self, incoming: Incoming) -> None:
        message = incoming.message
        if isinstance(message, TransferUnread):
            if self._backend is not None:
                self._backend.unread(message.request_id, message.transfer)
            return
        assert isinstance(message, Generate)
        peer, stream = peer_of(incoming), incoming.header.correlation
        self._streams[peer, stream] = incoming
        self.rt.log.debug(
            "asked", request_id=message.request_id, trace_id=trace_id(incoming.header.trace)
        )
        self._handle(Asked(peer, stream, message))

    def on_cancel(self, incoming: Incoming) -> None:
        key = peer_of(incoming), incoming.header.correlation
        if self._streams.pop(key, None) is not None:
            self._handle(Withdrawn(*key))

    def on_drain(self, timeout: float) -> None:
        self._handle(Draining())

    def pending(self) -> int:
        """What is kept for other engines is waited for too: they read it, or its lease ends."""
        return len(self._streams) + (self._transfer.held if self._transfer is not None else 0)

    def queues(self) -> list[Queue]:
        # The engine's own waiting queue is bounded by the open streams of the mailbox.
        waiting = sum(load.waiting for load in self._gate.all())
        held = len(self.core.state.held)
        return [Queue("waiting", waiting, 65_536, 0), Queue("held", held, HELD, self.core.refused)]

    def facts(self) -> dict[str, str]:
        facts: dict[str, str] = {"phase": self.core.state.phase}
        if self.card is not None:
            facts["model"] = self.card.model
            facts["engine"] = f"{self.card.engine} {self.card.engine_version}"
        for load in self._gate.all():
            facts[f"rank {load.rank}"] = (
                f"{load.running} running, {load.waiting} waiting, "
                f"{load.blocks_used} of {load.blocks_total} blocks, step {load.step}"
            )
        if (moved := self._transfer) is not None:
            facts["transfer"] = (
                f"{moved.received} received, {moved.received_bytes >> 20} MiB, "
                f"{moved.failed} failed, {moved.held} held, {moved.expired} expired"
            )
            if moved.hits_by_source:
                facts["prompt tokens not computed"] = ", ".join(
                    f"{tokens} {source}" for source, tokens in sorted(moved.hits_by_source.items())
                )
        return facts

    async def on_stop(self) -> None:
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait([self._loading])
        if self._backend is not None:
            await self._backend.stop()
        for variable, value in self._variables.items():
            if os.environ.get(variable) == value:  # else another engine's, in this process
                del os.environ[variable]

    # --- the backend's sink ---

    def waits(self, what: str) -> None:
        self.rt.set_state(self.rt.state, what)

    def step(self, deltas: Sequence[tuple[int, Delta]]) -> None:
        self._handle(Stepped(deltas))

    def load(self, load: Load) -> None:
        self._gate.put(load)
        if self._gate_timer is None:
            self._publish_load()

    def lost(self, key: int, text: str) -> None:
        self._handle(Lost(key, text))

    def transfer(self, state: TransferState) -> None:
        self._transfer = state
        self.rt.publish("transfer", state)

    def dead(self, reason: str, *, outside: bool = False) -> None:
        self._handle(EngineDied(reason, outside))

    # --- carrying out ---

    async def _load(self) -> None:
        assert self._backend is not None
        try:
            self.card = await self._backend.start(self)
        except Exception as error:  # whatever the engine's own code raises is why it cannot start
            self.rt.log.exception("the engine did not start")
            self.rt.fail(str(error) or type(error).__name__)
            return
        self._handle(Loaded(list(self.card.served_names), self.card.ranks))
        self.rt.ready(self.card)
        if self.card.kv_publisher == "vllm":
            self.rt.log.warning(VLLM_PUBLISHES)
            self.rt.set_state(self.rt.state, VLLM_PUBLISHES)
        self._beat()

    def _handle(self, event: Event) -> None:
        self._run(self._decide(event))

    def _run(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._send(effect)
            elif isinstance(effect, Submit):
                self._submit(effect)
            elif isinstance(effect, Abort):
                assert self._backend is not None
                self._backend.abort(effect.keys)
            elif isinstance(effect, Refuse):
                if incoming := self._streams.pop((effect.peer, effect.stream), None):
                    incoming.refuse(effect.code, effect.text)
            elif isinstance(effect, EndLife):
                self.rt.fail(effect.reason, outside=effect.outside)

    def _send(self, effect: Send) -> None:
        sent = self.rt.batch(effect.peer.encode(errors="surrogateescape"), effect.step)
        for stream in effect.ended:
            if incoming := self._streams.pop((effect.peer, stream), None):
                self.rt.ended(incoming)
        if not sent:
            self.rt.note("gateway_unreachable", effect.peer)
            self._lose(effect.peer)

    def _lose(self, peer: str) -> None:
        """Nothing reaches this gateway: stop its requests; it learns by sequence, or is dead."""
        for key in [key for key in self._streams if key[0] == peer]:
            self.rt.ended(self._streams.pop(key))
        self._handle(PeerLost(peer))

    def _submit(self, effect: Submit) -> None:
        assert self._backend is not None
        try:
            self._backend.submit(effect.key, effect.stream, effect.request)
        except InvalidRequest as error:
            self.rt.log.info("refused", request_id=effect.request.request_id, reason=str(error))
            if effect.request.resumed:
                self.rt.note("resume_refused", str(error))
            self._handle(Rejected(effect.key, str(error)))
        except KvLost as error:
            self._handle(Lost(effect.key, str(error)))

    def _publish_load(self) -> None:
        self._gate_timer = None
        now = self.rt.clock.now()
        for load in self._gate.take(now):
            self.rt.publish("load", load)
        wait = self._gate.wait(now)
        if wait is not None:
            self._gate_timer = self.rt.clock.call_later(wait, self._publish_load)

    def _beat(self) -> None:
        if self.rt.state in ("ready", "draining"):
            for load in self._gate.all():
                self.rt.publish("load", load)
            self.rt.clock.call_later(BEAT, self._beat)


def peer_of(incoming: Incoming) -> str:
    """The asker's routing id as text, whatever bytes a stranger chose."""
    return incoming.identity.decode(errors="surrogateescape")


def make_backend(options: dict[str, Any]) -> Backend:
    """The engine that `options["backend"]` names; the other options are its own."""
    own = {name: value for name, value in options.items() if name != "backend"}
    backend = options.get("backend", "vllm")
    if backend == "sim":
        from actors.engine.sim.backend import SimBackend  # never loads torch or vllm

        return SimBackend(own)
    if backend == "vllm":
        from actors.engine.vllm.backend import VllmBackend  # imports vllm when it starts

        return VllmBackend(own)
    raise ValueError(f"backend {backend!r}: it must be 'vllm' or 'sim'")

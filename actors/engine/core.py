"""What EngineActor decides: which requests run, for whom, and how each of them ends. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from bus.core import CoreRecord
from schemas.generate import Delta, Generate, Step
from schemas.refusal import Code

Phase = Literal["loading", "serving", "draining", "dead"]
"""Sleeping, adapters and checkpoints will be further phases of this same machine."""


class Loaded(CoreRecord, frozen=True):
    """The engine serves these model names on this many data-parallel ranks."""

    names: list[str]
    ranks: int


class Asked(CoreRecord, frozen=True):
    """A gateway opens a stream. `peer` is its identity on the wire, `stream` its own number."""

    peer: str
    stream: int
    request: Generate


class Rejected(CoreRecord, frozen=True):
    """The engine did not take the request, for this reason."""

    key: int
    text: str


class Lost(CoreRecord, frozen=True):
    """KV blocks that the request was to get from another engine did not come."""

    key: int
    text: str


class Withdrawn(CoreRecord, frozen=True):
    """The client left, or its gateway died."""

    peer: str
    stream: int


class PeerLost(CoreRecord, frozen=True):
    """Nothing can be sent to this gateway any more."""

    peer: str


class Stepped(CoreRecord, frozen=True):
    """Output of one engine step, `(key, delta)`."""

    deltas: Sequence[tuple[int, Delta]]


class EngineDied(CoreRecord, frozen=True):
    """`outside`: somebody killed it."""

    reason: str
    outside: bool = False


class Draining(CoreRecord, frozen=True):
    pass


class Submit(CoreRecord, frozen=True):
    key: int
    stream: int
    request: Generate


class Abort(CoreRecord, frozen=True):
    keys: list[int]


class Send(CoreRecord, frozen=True):
    """One message for one gateway; `ended` are the streams whose last delta is in it."""

    peer: str
    step: Step
    ended: list[int]


class Refuse(CoreRecord, frozen=True):
    peer: str
    stream: int
    code: Code
    text: str


class EndLife(CoreRecord, frozen=True):
    reason: str
    outside: bool = False


Event = Loaded | Asked | Rejected | Lost | Withdrawn | PeerLost | Stepped | EngineDied | Draining
Effect = Submit | Abort | Send | Refuse | EndLife


class Stream(msgspec.Struct):
    peer: str
    stream: int


class State(msgspec.Struct):
    """`held` are the requests of streams that wait, in order; `alone` is the one that runs so."""

    phase: Phase = "loading"
    names: list[str] = []
    ranks: int = 1
    last_key: int = 0
    streams: dict[int, Stream] = {}
    held: dict[int, Generate] = {}
    alone: int = 0


HELD = 4096
"""Requests that may wait for one that is to run alone, or runs so."""


class EngineCore:
    """Every stream that was asked for ends: in a delta with a finish reason, or in a refusal.

    A request that is to run alone waits until nothing else runs, and those that come later wait
    until it has ended: the order in which they were asked for is kept.
    """

    def __init__(self) -> None:
        self.state = State()
        self.refused = 0
        """Requests that found too many held."""
        self._keys: dict[tuple[str, int], int] = {}

    def handle(self, event: Event) -> list[Effect]:
        effects = self._handle(event)
        return effects + self._admit() if self.state.held else effects

    def _handle(self, event: Event) -> list[Effect]:
        if isinstance(event, Stepped):
            return self._stepped(event.deltas)
        if isinstance(event, Asked):
            return self._asked(event)
        if isinstance(event, Withdrawn):
            return self._abort([self._keys.get((event.peer, event.stream), 0)])
        if isinstance(event, PeerLost):
            streams = self.state.streams.items()
            return self._abort([key for key, stream in streams if stream.peer == event.peer])
        if isinstance(event, Rejected):
            return self._refuse([event.key], "invalid", event.text)
        if isinstance(event, Lost):
            return self._refuse([event.key], "kv_lost", event.text)
        if isinstance(event, Loaded):
            self.state.names, self.state.ranks = event.names, event.ranks
            if self.state.phase == "loading":
                self.state.phase = "serving"
            return []
        if isinstance(event, EngineDied):
            self.state.phase = "dead"
            refusals = self._refuse(list(self.state.streams), "died", event.reason)
            return [*refusals, EndLife(event.reason, event.outside)]
        if self.state.phase != "dead":
            self.state.phase = "draining"
        return []

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.state)

    def restore(self, data: bytes) -> None:
        self.state = msgspec.msgpack.decode(data, type=State)
        self._keys = {(s.peer, s.stream): key for key, s in self.state.streams.items()}

    def _asked(self, event: Asked) -> list[Effect]:
        state, request = self.state, event.request
        code, text = self._objection(request)
        if code is not None:
            return [Refuse(event.peer, event.stream, code, text)]
        waits = bool(state.held or state.alone or (request.alone and state.streams))
        state.last_key = key = state.last_key + 1
        state.streams[key] = Stream(event.peer, event.stream)
        self._keys[event.peer, event.stream] = key
        if waits:
            state.held[key] = request
            return []
        return [self._submit(key, request)]

    def _submit(self, key: int, request: Generate) -> Submit:
        if request.alone:
            self.state.alone = key
        return Submit(key, self.state.streams[key].stream, request)

    def _admit(self) -> list[Effect]:
        """Let those that wait run, in order, as far as they may."""
        state, effects = self.state, list[Effect]()
        while state.held and not state.alone:
            key, request = next(iter(state.held.items()))
            if request.alone and len(state.streams) > len(state.held):
                break
            del state.held[key]
            effects.append(self._submit(key, request))
        return effects

    def _objection(self, request: Generate) -> tuple[Code | None, str]:
        state = self.state
        if state.phase == "loading":
            return "not_ready", "the engine is still loading its model"
        if state.phase == "draining":
            return "draining", "the engine takes no new requests: it is stopping"
        if state.phase == "dead":
            return "died", "the engine is gone"
        if request.model not in state.names:
            return "not_found", f"model {request.model!r} is not served here"
        if request.rank is not None and not 0 <= request.rank < state.ranks:
            return "invalid", f"rank {request.rank}: this engine has ranks 0 to {state.ranks - 1}"
        if len(state.held) >= HELD:
            self.refused += 1
            return "overloaded", f"{HELD} requests wait for one that runs alone; try again later"
        return None, ""

    def _stepped(self, deltas: Sequence[tuple[int, Delta]]) -> list[Effect]:
        streams = self.state.streams
        messages: dict[str, tuple[list[Delta], list[int]]] = {}
        for key, delta in deltas:
            stream = streams.get(key)
            if stream is None:
                continue  # withdrawn while the step ran
            message = messages.get(stream.peer)
            if message is None:
                message = messages[stream.peer] = ([], [])
            message[0].append(delta)
            if delta.finish_reason is not None:
                message[1].append(stream.stream)
                self._forget(key)
        return [Send(peer, Step(sent), ended) for peer, (sent, ended) in messages.items()]

    def _abort(self, keys: list[int]) -> list[Effect]:
        # The backend has never seen those that still wait.
        held = self.state.held.keys() & set(keys)
        known = [key for key in keys if self._forget(key) is not None and key not in held]
        return [Abort(known)] if known else []

    def _refuse(self, keys: list[int], code: Code, text: str) -> list[Effect]:
        gone = [stream for key in keys if (stream := self._forget(key)) is not None]
        return [Refuse(stream.peer, stream.stream, code, text) for stream in gone]

    def _forget(self, key: int) -> Stream | None:
        stream = self.state.streams.pop(key, None)
        if stream is not None:
            del self._keys[stream.peer, stream.stream]
            self.state.held.pop(key, None)
            if key == self.state.alone:
                self.state.alone = 0
        return stream

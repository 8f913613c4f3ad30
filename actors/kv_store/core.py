"""Decides when the server serves, whether it still does, and when it must be started anew. Pure."""

from __future__ import annotations

import msgspec

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
    Trouble,
)
from schemas.kv_store import KvStoreState

SERVER = "LMCache's server"
START = 180.0
"""Seconds until it must have answered: it imports torch, and takes all of its memory at once."""
UNWELL = 30.0
"""Seconds without a good answer, after which it is given up. Copies of many blocks may keep it."""
UNHEALTHY = "by its own word it is not healthy"


class State(msgspec.Struct):
    """`unwell`: since when, and why. `said` was published last."""

    began: float = 0.0
    ready: bool = False
    unwell: float | None = None
    why: str = ""
    over: bool = False
    said: KvStoreState | None = None


class KvStoreCore:
    """Of one life of the server."""

    def __init__(self, memory_bytes: int) -> None:
        self.state = State()
        self._memory = memory_bytes

    def handle(self, event: Event) -> list[Effect]:
        state = self.state
        if state.over:
            return []
        if isinstance(event, Began):
            state.began = event.now
            return []
        if isinstance(event, Ended):
            return self._fail(f"{SERVER} ended: {event.cause}")
        if isinstance(event, Answered) and event.healthy:
            return self._well(event)
        return self._unwell(event.now, event.why if isinstance(event, Silent) else UNHEALTHY)

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.state)

    def restore(self, data: bytes) -> None:
        self.state = msgspec.msgpack.decode(data, type=State)

    def _well(self, event: Answered) -> list[Effect]:
        state, effects = self.state, list[Effect]()
        if not state.ready:
            state.ready = True
            effects.append(Serve())
        elif state.why:
            effects.append(Trouble(""))
        state.unwell, state.why = None, ""
        new = KvStoreState(
            self._memory,
            event.used_bytes,
            event.objects,
            event.requested_tokens,
            event.hit_tokens,
        )
        if new != state.said:
            state.said = new
            effects.append(Say(new))
        return effects

    def _unwell(self, now: float, why: str) -> list[Effect]:
        state = self.state
        if not state.ready:
            if now - state.began < START:
                return []
            return self._fail(f"{SERVER} did not serve within {START:g} s: {why}")
        if state.unwell is None:
            state.unwell = now
        if now - state.unwell >= UNWELL:
            return self._fail(f"{SERVER} has not been well for {UNWELL:g} s: {why}")
        if why == state.why:
            return []
        state.why = why
        return [Trouble(f"{SERVER}: {why}")]

    def _fail(self, reason: str) -> list[Effect]:
        self.state.over = True
        return [Fail(reason)]

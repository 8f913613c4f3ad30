"""What GatewayActor decides: where each choice runs, what is tried again, how each one ends. Pure.

Tokens do not pass through here. A `Step` carries a delta for every running choice; decoding one,
finding its choice, making text of it and its `data:` line take 4 µs together, and an event with its
list of effects would add 1 µs to each. So the shell hands deltas straight to the choice that they
belong to. The core hears of the first and the last of a choice, which is all that its decisions
need. Migration of a choice that has started will need the tokens that it has produced: they are
the sinks' business, as is their text.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from actors.gateway.events import (
    AskPlacement,
    Cancel,
    ClientGone,
    Due,
    Effect,
    EndPlacement,
    EngineEntry,
    EngineGone,
    Event,
    Fail,
    Finished,
    LoadSeen,
    OpenStream,
    Pause,
    Placed,
    Refused,
    RouterEntry,
    RouterGone,
    Started,
    Submit,
)
from actors.gateway.fleet import Fleet
from schemas.refusal import RETRYABLE, Code, Refusal

ATTEMPTS = 4
"""Placements of a choice before its last refusal goes to the client."""
WITHOUT_ROUTER = 100
"""Placements by load after a router did not answer: it must not stop the service."""
SILENT: frozenset[Code] = frozenset({"died", "unreachable", "deadline", "stale", "overloaded"})
"""Refusals of an ask that say nothing about the request itself."""
PAUSE = 0.05
"""Seconds before a second try where the first engine is the only one; doubles each time."""

COUNTERS = ("failed", "finished", "placed_by_load", "placed_by_router", "retries", "router_failed")

Phase = Literal["placing", "pausing", "opening", "generating"]


class Choice(msgspec.Struct):
    """`routed` names the router that counts this choice as load."""

    request: Submit
    phase: Phase = "placing"
    engine: str = ""
    incarnation: int = 0
    rank: int = 0
    attempts: int = 0
    avoid: list[str] = []
    routed: str = ""


class State(msgspec.Struct):
    fleet: Fleet
    choices: dict[int, Choice]
    routers: list[str]
    without_router: int
    counters: dict[str, int]


class GatewayCore:
    """Every choice that was submitted ends once: finished, failed, or forgotten with its client."""

    def __init__(self) -> None:
        self.state = State(Fleet(), {}, [], 0, dict.fromkeys(COUNTERS, 0))

    def handle(self, event: Event) -> list[Effect]:
        state = self.state
        if isinstance(event, Started):
            if choice := state.choices.get(event.choice):
                choice.phase = "generating"
            return []
        if isinstance(event, Finished):
            return self._finished(event)
        if isinstance(event, Submit):
            choice = Choice(event)
            state.choices[event.choice] = choice
            return self._place(event.choice, choice)
        if isinstance(event, Placed):
            return self._placed(event)
        if isinstance(event, Refused):
            return self._refused(event)
        if isinstance(event, ClientGone):
            return [effect for key in event.choices for effect in self._drop(key, cancel=True)]
        if isinstance(event, Due):
            due = state.choices.get(event.choice)
            if due is None or due.phase != "pausing":
                return []
            return self._place(event.choice, due)
        self._learn(event)
        return []

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.state)

    def restore(self, data: bytes) -> None:
        self.state = msgspec.msgpack.decode(data, type=State)

    @property
    def router(self) -> str | None:
        """The router that is asked, or None: place by load."""
        if self.state.without_router or not self.state.routers:
            return None
        return self.state.routers[0]

    def _learn(self, event: EngineEntry | EngineGone | RouterEntry | RouterGone | LoadSeen) -> None:
        routers = self.state.routers
        if isinstance(event, LoadSeen):
            self.state.fleet.load(event)
        elif isinstance(event, EngineEntry):
            self.state.fleet.entry(event)
        elif isinstance(event, EngineGone):
            self.state.fleet.gone(event)
        elif isinstance(event, RouterEntry) and event.ready:
            if event.router not in routers:
                routers.append(event.router)
                routers.sort()
        elif event.router in routers:
            routers.remove(event.router)

    def _place(self, key: int, choice: Choice) -> list[Effect]:
        """One way to go: straight there. Several: as the router says, or by load without one."""
        request, fleet = choice.request, self.state.fleet
        candidates = fleet.candidates(request.model, request.rank)
        choice.attempts += 1
        if not candidates:
            return self._no_engine(key, choice)
        router = self.router
        if len(candidates) > 1 and router is not None and request.rank is None:
            choice.phase = "placing"
            choice.routed = router
            self.state.counters["placed_by_router"] += 1
            return [
                AskPlacement(
                    key,
                    router,
                    request.request_id,
                    request.model,
                    request.prompt_tokens,
                    request.max_tokens,
                    list(choice.avoid),
                )
            ]
        if len(candidates) > 1:
            self.state.counters["placed_by_load"] += 1
            self.state.without_router = max(0, self.state.without_router - 1)
        engine, rank = fleet.least_loaded(candidates, choice.avoid)
        return [self._open(key, choice, engine, fleet.engines[engine].incarnation, rank)]

    def _no_engine(self, key: int, choice: Choice) -> list[Effect]:
        model = choice.request.model
        if choice.request.rank is not None and self.state.fleet.candidates(model, None):
            text = f"no engine of {model!r} has data-parallel rank {choice.request.rank}"
            return self._fail(key, choice, Refusal("invalid", text))
        return self._retry(key, choice, "not_ready", f"no engine of {model!r} is ready")

    def _placed(self, event: Placed) -> list[Effect]:
        choice = self.state.choices.get(event.choice)
        if choice is None or choice.phase != "placing":
            return []
        return [self._open(event.choice, choice, event.engine, event.incarnation, event.rank)]

    def _open(
        self, key: int, choice: Choice, engine: str, incarnation: int, rank: int
    ) -> OpenStream:
        choice.phase = "opening"
        choice.engine, choice.incarnation, choice.rank = engine, incarnation, rank
        self.state.fleet.placed(engine, incarnation, rank)
        return OpenStream(key, engine, incarnation, rank)

    def _refused(self, event: Refused) -> list[Effect]:
        choice = self.state.choices.get(event.choice)
        if choice is None:
            return []
        phase = choice.phase
        self._leave(choice)
        if phase == "placing":
            return self._not_placed(event, choice)
        if choice.engine not in choice.avoid:
            choice.avoid.append(choice.engine)
        if phase == "generating" or event.code not in RETRYABLE:
            refusal = Refusal(event.code, event.message, event.param)
            return self._fail(event.choice, choice, refusal)
        candidates = self.state.fleet.candidates(choice.request.model, choice.request.rank)
        elsewhere = any(engine not in choice.avoid for engine, _ in candidates)
        return self._retry(event.choice, choice, event.code, event.message, at_once=elsewhere)

    def _not_placed(self, event: Refused, choice: Choice) -> list[Effect]:
        choice.routed = ""
        if event.code not in SILENT:
            return self._retry(event.choice, choice, event.code, event.message)
        self.state.without_router = WITHOUT_ROUTER
        self.state.counters["router_failed"] += 1
        return self._place(event.choice, choice)

    def _retry(
        self, key: int, choice: Choice, code: Code, message: str, *, at_once: bool = False
    ) -> list[Effect]:
        """Again, after a pause unless another engine may take it."""
        if choice.attempts >= ATTEMPTS:
            return self._fail(key, choice, Refusal(code, message))
        self.state.counters["retries"] += 1
        if at_once:
            return self._place(key, choice)
        choice.phase = "pausing"
        return [Pause(key, PAUSE * 2 ** (choice.attempts - 1))]

    def _fail(self, key: int, choice: Choice, refusal: Refusal) -> list[Effect]:
        del self.state.choices[key]
        self.state.counters["failed"] += 1
        failed = Fail(key, refusal.code, refusal.message, refusal.param)
        return [*self._end_placement(choice), failed]

    def _finished(self, event: Finished) -> list[Effect]:
        self.state.counters["finished"] += 1
        return self._drop(event.choice, cancel=event.cut)

    def _drop(self, key: int, *, cancel: bool) -> list[Effect]:
        choice = self.state.choices.pop(key, None)
        if choice is None:
            return []
        self._leave(choice)
        effects: list[Effect] = [Cancel(key)] if cancel and choice.phase != "pausing" else []
        return effects + self._end_placement(choice)

    def _leave(self, choice: Choice) -> None:
        if choice.phase in ("opening", "generating"):
            self.state.fleet.left(choice.engine, choice.incarnation, choice.rank)

    def _end_placement(self, choice: Choice) -> list[Effect]:
        if not choice.routed:
            return []
        return [EndPlacement(choice.routed, choice.request.request_id)]

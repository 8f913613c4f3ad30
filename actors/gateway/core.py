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
    RouterSilent,
    RoutingSeen,
    Started,
    StartPlacement,
    Submit,
)
from actors.gateway.fleet import Fleet
from schemas.placement import Place, RoutingState
from schemas.refusal import RETRYABLE, Code, Refusal

ATTEMPTS = 4
"""Placements of a choice before its last refusal goes to the client."""
WITHOUT_ROUTER = 100
"""Placements without a router that did not answer: it must not stop the service."""
SILENT: frozenset[Code] = frozenset({"died", "unreachable", "stale"})
"""Refusals of an ask that say nothing about the request itself."""
FINAL: frozenset[Code] = frozenset({"invalid", "overloaded", "deadline"})
"""A router's last word. Its queue is there to protect the engines: nothing may go around it, and
`deadline` is a queue that took too long.
"""
ONLY, PINNED, LEAST_LOADED = "only", "pinned", "least-loaded"
"""How a place was chosen without a router."""
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
    """`silent` routers are not asked for so many more placements. `turn` spreads gateways over
    routers. `routing` is what routers said last.
    """

    fleet: Fleet
    choices: dict[int, Choice]
    routers: list[str]
    silent: dict[str, int]
    counters: dict[str, int]
    routing: dict[str, RoutingState] = {}
    turn: int = 0


class GatewayCore:
    """Every choice that was submitted ends once: finished, failed, or forgotten with its client."""

    def __init__(self) -> None:
        self.state = State(Fleet(), {}, [], {}, dict.fromkeys(COUNTERS, 0))

    def handle(self, event: Event) -> list[Effect]:
        state = self.state
        if isinstance(event, Started):
            return self._started(event)
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
        if isinstance(event, RouterSilent):
            return self._silent(event.router)
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
        routers, silent = self.state.routers, self.state.silent
        for i in range(len(routers)):
            router = routers[(self.state.turn + i) % len(routers)]
            if router not in silent:
                return router
        return None

    def block_size(self, model: str) -> int:
        """Tokens per block in which prompts are named to a router; 0 where none will be asked."""
        if self.router is None or len(self.state.fleet.candidates(model)) < 2:
            return 0
        return self.state.fleet.block_size(model)

    def _learn(
        self,
        event: EngineEntry | EngineGone | RouterEntry | RouterGone | LoadSeen | RoutingSeen,
    ) -> None:
        state = self.state
        if isinstance(event, LoadSeen):
            state.fleet.load(event)
        elif isinstance(event, RoutingSeen):
            state.routing[event.router] = event.routing
        elif isinstance(event, EngineEntry):
            state.fleet.entry(event)
        elif isinstance(event, EngineGone):
            state.fleet.gone(event)
        elif isinstance(event, RouterEntry) and event.ready:
            if event.router not in state.routers:
                state.routers.append(event.router)
                state.routers.sort()
        else:
            if event.router in state.routers:
                state.routers.remove(event.router)
            state.silent.pop(event.router, None)
            state.routing.pop(event.router, None)

    def _place(self, key: int, choice: Choice) -> list[Effect]:
        """One way to go: straight there. Several: as the router says, or by load without one."""
        request, fleet = choice.request, self.state.fleet
        pinned = request.engine is not None or request.rank is not None
        everywhere = fleet.candidates(request.model)
        candidates = everywhere
        if pinned:
            candidates = fleet.candidates(request.model, request.rank, request.engine)
        choice.attempts += 1
        if not candidates:
            return self._no_engine(key, choice)
        if len(everywhere) > 1:
            router = self.router
            self._forgive()
            if router is not None:
                return [self._ask(key, choice, router)]
        chosen = PINNED if pinned else ONLY
        if len(candidates) > 1:
            chosen = LEAST_LOADED
            self.state.counters["placed_by_load"] += 1
        engine, rank = fleet.least_loaded(candidates, choice.avoid)
        return [self._open(key, choice, engine, fleet.engines[engine].incarnation, rank, chosen)]

    def _ask(self, key: int, choice: Choice, router: str) -> AskPlacement:
        request = choice.request
        choice.phase, choice.routed = "placing", router
        self.state.counters["placed_by_router"] += 1
        ask = Place(
            request.request_id,
            request.model,
            request.prompt_tokens,
            request.max_tokens,
            request.blocks,
            request.block_size,
            list(choice.avoid),
            request.priority,
            request.session,
            request.engine,
            request.rank,
        )
        return AskPlacement(key, router, ask)

    def _forgive(self) -> None:
        """One placement more without the silent routers."""
        silent = self.state.silent
        for router in list(silent):
            silent[router] -= 1
            if silent[router] <= 0:
                del silent[router]

    def _no_engine(self, key: int, choice: Choice) -> list[Effect]:
        request = choice.request
        wrong = self.state.fleet.wrong_pin(request.model, request.engine, request.rank)
        if wrong is not None and choice.attempts == 1:
            return self._fail(key, choice, wrong)
        where = request.engine or f"no engine of {request.model!r}"
        text = f"{where} is {'not ready' if request.engine else 'ready'}"
        return self._retry(key, choice, "not_ready", text)

    def _started(self, event: Started) -> list[Effect]:
        choice = self.state.choices.get(event.choice)
        if choice is None:
            return []
        choice.phase = "generating"
        if not choice.routed:
            return []
        return [StartPlacement(choice.routed, choice.request.request_id)]

    def _placed(self, event: Placed) -> list[Effect]:
        choice = self.state.choices.get(event.choice)
        if choice is None or choice.phase != "placing":
            return []
        return [self._open(event.choice, choice, event.engine, event.incarnation, event.rank)]

    def _open(
        self,
        key: int,
        choice: Choice,
        engine: str,
        incarnation: int,
        rank: int,
        chosen: str = "",
    ) -> OpenStream:
        choice.phase = "opening"
        choice.engine, choice.incarnation, choice.rank = engine, incarnation, rank
        self.state.fleet.placed(engine, incarnation, rank)
        return OpenStream(key, engine, incarnation, rank, chosen)

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
        request = choice.request
        candidates = self.state.fleet.candidates(request.model, request.rank, request.engine)
        elsewhere = any(engine not in choice.avoid for engine, _ in candidates)
        # Whoever places it next, the router that did so first must not go on counting it.
        ended = self._end_placement(choice)
        again = self._retry(event.choice, choice, event.code, event.message, at_once=elsewhere)
        return ended + again

    def _not_placed(self, event: Refused, choice: Choice) -> list[Effect]:
        """A router said no, or is not there."""
        router = choice.routed
        if event.code in FINAL:
            # It may still place what it was too late for.
            choice.routed = router if event.code == "deadline" else ""
            code: Code = "overloaded" if event.code == "deadline" else event.code
            refusal = Refusal(code, event.message, event.param)
            return self._fail(event.choice, choice, refusal)
        choice.routed = ""
        if event.code not in SILENT:
            return self._retry(event.choice, choice, event.code, event.message)
        self._do_without(router)
        return self._place(event.choice, choice)

    def _silent(self, router: str) -> list[Effect]:
        """Whoever waits for it goes on without it."""
        state = self.state
        if router not in state.routers or router in state.silent:
            return []
        self._do_without(router)
        effects: list[Effect] = []
        for key, choice in list(state.choices.items()):
            if choice.phase == "placing" and choice.routed == router:
                effects += [Cancel(key), *self._end_placement(choice), *self._place(key, choice)]
        return effects

    def _do_without(self, router: str) -> None:
        self.state.silent[router] = WITHOUT_ROUTER
        self.state.counters["router_failed"] += 1

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
        router, choice.routed = choice.routed, ""
        return [EndPlacement(router, choice.request.request_id)] if router else []

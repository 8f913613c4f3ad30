"""What GatewayCore remembers: one `Choice` each, and a `State` of them all. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from actors.gateway.events import (
    AskPlacement,
    Effect,
    EndPlacement,
    EngineEntry,
    EngineGone,
    LoadSeen,
    OpenStream,
    Refused,
    RouterEntry,
    RouterGone,
    RoutingSeen,
    Step,
    Submit,
    Unread,
)
from actors.gateway.fleet import Fleet
from actors.gateway.rules import Rules
from actors.gateway.suspects import Suspects
from schemas.directory import Role
from schemas.placement import Place, RoutingState
from schemas.refusal import Refusal

COUNTERS = (
    "failed",
    "finished",
    "migrated_before_first_token",
    "migrated_mid_stream",
    "migration_failed_deadline",
    "migration_failed_limit",
    "migration_failed_refused",
    "migration_failed_unsupported",
    "placed_by_load",
    "placed_by_router",
    "prefill_leases_over",
    "prefill_reruns",
    "prefilled_locally",
    "prefilled_remotely",
    "quarantined",
    "retries",
    "router_failed",
    "run_alone",
    "tokens_replayed",
    "transfers_unread",
)

WITHOUT_ROUTER = 100
"""Placements without a router that did not answer: it must not stop the service."""

News = EngineEntry | EngineGone | RouterEntry | RouterGone | LoadSeen | RoutingSeen

DECODE = ":decode"
"""Ends what routers call an answer whose prompt was computed elsewhere: a second placement."""

Phase = Literal["placing", "pausing", "waiting", "opening", "generating"]


class Source(msgspec.Struct):
    """The life of a prefill engine that keeps blocks for a choice.

    `number` of the prefill of this choice. `over`: its lease is. `routed` as in `Choice`.
    """

    engine: str
    incarnation: int
    number: int
    routed: str = ""
    over: bool = False


class Choice(msgspec.Struct):
    """`routed` names the router that counts this choice as load.

    `began`: it has output, of `tokens` tokens when its last engine ended. `resumes`: the engine
    where it is or was can continue what others began. `moves` counts the engines that it lost
    without a new token. `turn` is that of its last `Wait`, which is `armed` until it is of no use.

    `step` is what its last engine was to do; `splits`: a router may choose a prefill engine now.
    `source` has the prompt's blocks, until they are read. `prefills` that were done, `reruns` of
    them since their blocks were lost; `local`: no prefill engine shall be used any more.
    `placement` is how routers know the last one.
    """

    request: Submit
    phase: Phase = "placing"
    engine: str = ""
    incarnation: int = 0
    rank: int = 0
    attempts: int = 0
    avoid: list[str] = []
    routed: str = ""
    began: bool = False
    tokens: int = 0
    resumes: bool = False
    moves: int = 0
    turn: int = 0
    armed: bool = False
    content: str = ""
    alone: bool = False
    step: Step = "whole"
    splits: bool = False
    source: Source | None = None
    prefills: int = 0
    reruns: int = 0
    local: bool = False
    placement: str = ""


class State(msgspec.Struct):
    """`silent` routers are not asked for so many more placements. `turn` spreads gateways over
    routers. `routing` is what routers said last. `waiting` choices wait for an engine, or for
    their turn to run alone, which the choice `alone` has now (0: none). Models of `served` names
    had an engine that was ready.
    """

    fleet: Fleet
    choices: dict[int, Choice]
    routers: list[str]
    silent: dict[str, int]
    counters: dict[str, int]
    rules: Rules = Rules()
    routing: dict[str, RoutingState] = {}
    turn: int = 0
    suspects: Suspects = msgspec.field(default_factory=Suspects)
    waiting: dict[int, None] = {}
    alone: int = 0
    served: dict[str, None] = {}

    @property
    def router(self) -> str | None:
        """The router that is asked, or None: place by load."""
        routers, silent = self.routers, self.silent
        for i in range(len(routers)):
            router = routers[(self.turn + i) % len(routers)]
            if router not in silent:
                return router
        return None

    def forgive(self) -> None:
        """One placement more without the silent routers."""
        for router in list(self.silent):
            self.silent[router] -= 1
            if self.silent[router] <= 0:
                del self.silent[router]

    def do_without(self, router: str) -> None:
        self.silent[router] = WITHOUT_ROUTER
        self.counters["router_failed"] += 1

    def learn(self, event: News) -> None:
        if isinstance(event, LoadSeen):
            self.fleet.load(event)
        elif isinstance(event, RoutingSeen):
            self.routing[event.router] = event.routing
        elif isinstance(event, EngineEntry):
            self.fleet.entry(event)
            if event.ready:
                self.served |= dict.fromkeys(event.names)
        elif isinstance(event, EngineGone):
            self.fleet.gone(event)
        elif isinstance(event, RouterEntry) and event.ready:
            if event.router not in self.routers:
                self.routers.append(event.router)
                self.routers.sort()
        else:
            if event.router in self.routers:
                self.routers.remove(event.router)
            self.silent.pop(event.router, None)
            self.routing.pop(event.router, None)

    def waits(self, key: int, turn: int) -> bool:
        """Whether a choice still waits as it did when its `Wait` said so."""
        choice = self.choices.get(key)
        return choice is not None and choice.armed and choice.turn == turn

    def must_queue(self, key: int, choice: Choice) -> bool:
        """Suspects run one at a time, on an engine that does nothing else meanwhile."""
        if not choice.alone and self.suspects.suspected(choice.content):
            choice.alone = True
            self.counters["run_alone"] += 1
        if not choice.alone or self.alone == key:
            return False
        if self.alone:
            return True
        self.alone = key
        return False

    # --- what is done with one choice ---

    def ask(
        self, key: int, choice: Choice, router: str, role: Role | None, local_tokens: int | None
    ) -> AskPlacement:
        request = choice.request
        choice.phase, choice.routed = "placing", router
        choice.splits = local_tokens is not None
        choice.placement = request.request_id + (DECODE if choice.source is not None else "")
        self.counters["placed_by_router"] += 1
        avoid = list(choice.avoid)
        if choice.began:
            avoid += self.fleet.without_resumption(request.model)
        ask = Place(
            choice.placement,
            request.model,
            request.prompt_tokens,
            request.max_tokens,
            request.blocks,
            request.block_size,
            avoid,
            request.priority,
            request.session,
            request.engine,
            request.rank,
            role,
            local_tokens,
        )
        return AskPlacement(key, router, ask)

    def open(
        self,
        key: int,
        choice: Choice,
        engine: str,
        incarnation: int,
        rank: int,
        step: Step,
        chosen: str = "",
    ) -> OpenStream:
        choice.phase, choice.step = "opening", step
        choice.engine, choice.incarnation, choice.rank = engine, incarnation, rank
        self.fleet.placed(engine, incarnation, rank)
        choice.resumes = self.fleet.resumes(engine)
        return OpenStream(key, engine, incarnation, rank, chosen, choice.alone, step)

    def keeps(self, source: Source) -> bool:
        """As far as we know."""
        return not source.over and self.fleet.lives(source.engine, source.incarnation)

    def give_up_source(self, key: int, choice: Choice) -> list[Effect]:
        """Nobody will read what is kept for it."""
        source, choice.source = choice.source, None
        if source is None:
            return []
        self.counters["transfers_unread"] += 1
        return [*self.end_source(choice, source), Unread(key, source.engine)]

    def end_source(self, choice: Choice, source: Source | None) -> list[Effect]:
        if source is None or not source.routed:
            return []
        return [EndPlacement(source.routed, choice.request.request_id)]

    def lost(self, event: Refused, choice: Choice) -> None:
        """A life is over, and this choice was there."""
        self.fleet.dead(choice.engine, choice.incarnation)
        if event.content:
            choice.content = event.content
            self.suspects.present(
                choice.engine, choice.incarnation, event.content, alone=choice.alone
            )

    def sentence(self) -> Refusal:
        self.counters["quarantined"] += 1
        text = "this request ended an engine that did nothing else: it is refused for a while"
        return Refusal("invalid", f"{text}; send it in another form")

    def leave(self, choice: Choice) -> None:
        if choice.phase in ("opening", "generating"):
            self.fleet.left(choice.engine, choice.incarnation, choice.rank)

    def end_placement(self, choice: Choice) -> list[Effect]:
        router, choice.routed = choice.routed, ""
        return [EndPlacement(router, choice.placement)] if router else []

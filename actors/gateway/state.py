"""What GatewayCore remembers: one `Choice` each, and a `State` of them all."""

from __future__ import annotations

from typing import Literal

import msgspec

from actors.gateway.events import Submit
from actors.gateway.fleet import Fleet
from actors.gateway.suspects import Suspects
from schemas.placement import RoutingState

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
    "quarantined",
    "retries",
    "router_failed",
    "run_alone",
    "tokens_replayed",
)

Phase = Literal["placing", "pausing", "waiting", "opening", "generating"]


class Choice(msgspec.Struct):
    """`routed` names the router that counts this choice as load.

    `began`: it has output, of `tokens` tokens when its last engine ended. `resumes`: the engine
    where it is or was can continue what others began. `moves` counts the engines that it lost
    without a new token. `turn` is that of its last `Wait`, which is `armed` until it is of no use.
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
    routing: dict[str, RoutingState] = {}
    turn: int = 0
    suspects: Suspects = msgspec.field(default_factory=Suspects)
    waiting: dict[int, None] = {}
    alone: int = 0
    served: dict[str, None] = {}

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

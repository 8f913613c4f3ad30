"""What happens to choices, and what the core wants done about it.

A *choice* is one engine request: a chat request with `n=4` has four. Its key is unique in this life
of the gateway.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from actors.gateway.rules import Rules
from schemas.directory import Role
from schemas.load import Load
from schemas.placement import Place, RoutingState
from schemas.refusal import Code

Step = Literal["whole", "prefill", "decode"]
"""What an engine does of a choice: all of it, its prompt for another engine, or what follows."""


class Record(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Base of events and effects: as `bus.core.CoreRecord`, and out of sight of the collector."""


class Submit(Record, frozen=True):
    """A new choice. `max_tokens` and `prompt_tokens` in tokens.

    `engine` and `rank` pin it, if given. `blocks` are the packed hashes of the prompt's blocks of
    `block_size` tokens, for a router. `resumable`: what an engine began, another may continue.
    `content` is the hash of all that an engine would compute, where anything is suspected.
    `transferable`: the engine that answers need not compute the prompt.
    """

    choice: int
    request_id: str
    model: str
    prompt_tokens: int
    max_tokens: int
    rank: int | None = None
    engine: str | None = None
    blocks: bytes = b""
    block_size: int = 0
    priority: int = 0
    session: str | None = None
    resumable: bool = True
    content: str = ""
    transferable: bool = True


class Placed(Record, frozen=True):
    """The router chose, an engine of this role."""

    choice: int
    engine: str
    incarnation: int
    rank: int
    role: Role = "aggregated"


class Refused(Record, frozen=True):
    """The router or the engine said no, or died. Also ends a stream in its midst.

    `tokens` are those of the choice so far. `content` as in `Submit`, if an engine died.
    """

    choice: int
    code: Code
    message: str
    param: str | None = None
    tokens: int = 0
    content: str = ""


class Started(Record, frozen=True):
    """The first output of a choice came from the engine where it runs now."""

    choice: int


class Prefilled(Record, frozen=True):
    """A prefill engine has computed the prompt. `kept`: its blocks wait there for a reader."""

    choice: int
    kept: bool


class LeaseOver(Record, frozen=True):
    """The time of a `Lease` is over."""

    choice: int
    prefill: int


class Finished(Record, frozen=True):
    """The last output of a choice came. `cut`: the gateway ended it, the engine still runs."""

    choice: int
    cut: bool = False


class ClientGone(Record, frozen=True):
    """Nobody wants these choices any more."""

    choices: list[int]


class Due(Record, frozen=True):
    """The pause of a choice is over."""

    choice: int


class WaitedLong(Record, frozen=True):
    """The time of a `Wait` is over."""

    choice: int
    turn: int


class EngineEntry(Record, frozen=True):
    """The directory has this engine, as it is now. `block_size` in tokens. `resumes`: it can
    continue what another engine began. `kv_lease`: seconds for which it keeps blocks for others.
    """

    engine: str
    incarnation: int
    ready: bool
    names: list[str]
    ranks: int
    block_size: int = 0
    resumes: bool = False
    role: Role = "aggregated"
    kv_lease: float = 0.0


class EngineGone(Record, frozen=True):
    engine: str
    incarnation: int


class EngineDied(Record, frozen=True):
    """The supervisor saw it end. `unexplained`: nobody outside killed it."""

    engine: str
    incarnation: int
    unexplained: bool


class Quarantined(Record, frozen=True):
    """Another gateway found that this content kills engines."""

    content: str


class Released(Record, frozen=True):
    """The time of a quarantine is over."""

    content: str


class RouterEntry(Record, frozen=True):
    router: str
    ready: bool


class RouterGone(Record, frozen=True):
    router: str


class RouterSilent(Record, frozen=True):
    """It gives no sign of life, whatever the directory says."""

    router: str


class LoadSeen(Record, frozen=True):
    engine: str
    load: Load


class RoutingSeen(Record, frozen=True):
    """What a router says of itself."""

    router: str
    routing: RoutingState


class Retuned(Record, frozen=True):
    """These are the rules from now on."""

    rules: Rules


class AskPlacement(Record, frozen=True):
    """Ask `router`; `Placed` or `Refused` follows."""

    choice: int
    router: str
    ask: Place


class OpenStream(Record, frozen=True):
    """Send the choice's `Generate` to this life of this engine.

    `chosen` is how, where no router did: see `core`. `alone`: while nothing else runs there.
    `step` is for what; with `decode` it gets what the prefill engine gave.
    """

    choice: int
    engine: str
    incarnation: int
    rank: int
    chosen: str = ""
    alone: bool = False
    step: Step = "whole"


class Lease(Record, frozen=True):
    """`LeaseOver` after `delay` seconds: the prefill engine keeps the blocks no longer."""

    choice: int
    delay: float
    prefill: int


class Unread(Record, frozen=True):
    """Tell the prefill engine that nobody will read what it keeps, and forget what it gave."""

    choice: int
    engine: str


class Cancel(Record, frozen=True):
    """Withdraw the ask or stream that the choice has open."""

    choice: int


class Pause(Record, frozen=True):
    """`Due` after `delay` seconds."""

    choice: int
    delay: float


class Wait(Record, frozen=True):
    """`WaitedLong` after `delay` seconds. Its client waits in the midst of an answer, or before."""

    choice: int
    delay: float
    turn: int


class Quarantine(Record, frozen=True):
    """This content killed an engine while it ran alone: tell the other gateways, and `Released`
    after a while.
    """

    content: str


class StartPlacement(Record, frozen=True):
    """Tell `router` that the prompt is computed."""

    router: str
    request_id: str


class EndPlacement(Record, frozen=True):
    """Tell `router` that the request is over."""

    router: str
    request_id: str


class Fail(Record, frozen=True):
    """The choice ends without its result; the client is told why."""

    choice: int
    code: Code
    message: str
    param: str | None = None


Event = (
    Submit
    | Placed
    | Refused
    | Started
    | Prefilled
    | LeaseOver
    | Finished
    | ClientGone
    | Due
    | WaitedLong
    | EngineEntry
    | EngineGone
    | EngineDied
    | Quarantined
    | Released
    | Retuned
    | RouterEntry
    | RouterGone
    | RouterSilent
    | LoadSeen
    | RoutingSeen
)
Effect = (
    AskPlacement
    | OpenStream
    | Lease
    | Unread
    | Cancel
    | Pause
    | Wait
    | Quarantine
    | StartPlacement
    | EndPlacement
    | Fail
)

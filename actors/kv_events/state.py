"""What a KvEventCore remembers."""

from __future__ import annotations

import msgspec

from actors.kv_events.feed import FeedState
from actors.kv_events.table import State


class Life(msgspec.Struct):
    """Of the engine. `over`: lives up to this one are. `dead`: there is none now that we know."""

    incarnation: int = 0
    over: int = 0
    ready: bool = False
    dead: bool = False


class Whole(msgspec.Struct):
    """All there is to remember. `naming`: as `Naming` said last.

    Written down it is without what may be large: see `written`.
    """

    sequence: int
    unsaid: int
    life: Life
    feeds: dict[str, FeedState]
    table: State
    naming: bool = False

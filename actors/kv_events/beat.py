"""What a rank's heartbeat says. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from actors.kv_events.feed import Feed, FeedState
from actors.kv_events.state import Life
from actors.kv_events.table import State
from schemas.kv import KvBeat


def is_complete(life: Life, feed: Feed, table: State) -> bool:
    """All that the engine holds is known; `feed` is its own."""
    if life.dead or life.incarnation == 0 == len(feed.state.held):
        return True
    joined = feed.state.joined or not life.ready
    unknown = table.unknown.get(feed.name)
    return joined and not feed.state.blind and not unknown and not feed.missing


def publisher(feed: FeedState) -> str:
    """Who publishes in the engine, as its numbers show."""
    if feed.expected is None:
        return ""
    return "callboard" if feed.base else "vllm"


def beat(
    where: tuple[str, int, int, int],
    complete: bool,
    feeds: Mapping[str, Feed],
    engine: str,
    table: State,
    named: dict[str, int],
) -> KvBeat:
    """`where`: engine, its life, rank and public sequence. `engine`: the name of its feed."""
    states = [feed.state for feed in feeds.values()]
    return KvBeat(
        *where,
        table.block_size,
        publisher(feeds[engine].state),
        sum(feed.batches for feed in states),
        table.events,
        sum(feed.lost for feed in states),
        sum(feed.missing for feed in feeds.values()),
        sum(feed.refused for feed in states),
        table.nameless,
        complete,
        named,
    )

"""What is wrong with what the router knows, in sentences for a person. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from actors.router.follow import Follower, Following
from actors.router.settings import Settings
from actors.router.workers import Engine, Workers

SILENCE = 3.0
"""Seconds without a beat."""
PATIENCE = 5.0
"""Seconds that a KvEventActor may take to come, to give a snapshot, to catch up."""
REMEMBERED = 60.0
"""Seconds for which an ask with blocks of another size is talked about."""
MAX_TOLD = 50


def find(
    workers: Workers,
    following: Following,
    settings: Settings,
    mismatched: dict[str, tuple[int, float]],
    now: float,
) -> list[str]:
    """At most `MAX_TOLD` and how many more; `mismatched`: model -> block size of an ask, when."""
    found: list[str] = []
    for name, engine in sorted(workers.engines.items()):
        if engine.ready:
            found += _of_engine(name, engine, following, now)
    found += _block_sizes(workers, mismatched, now)
    if following.index.refused:
        found.append(
            f"the index is full: {settings.index_blocks} blocks are not enough, raise index_blocks"
        )
    if len(found) > MAX_TOLD:
        return [*found[:MAX_TOLD], f"and {len(found) - MAX_TOLD} more like these"]
    return found


def _of_engine(name: str, engine: Engine, following: Following, now: float) -> Iterator[str]:
    card = engine.card
    if not card.prefix_caching:
        yield f"{name} has prefix caching off: what it is sent twice it computes twice"
        return
    followers = [following.of(name, number) for number in range(card.ranks)]
    if not card.kv_publisher and not any(followers):
        if card.role != "decode":  # which have none unless they are told to
            yield f"{name} publishes no KV events: what it has cached is guessed from placements"
        return
    beats = [follower.beat for follower in followers if follower and follower.beat]
    if "vllm" in (card.kv_publisher, *(beat.publisher for beat in beats)):
        yield (
            f"{name} publishes by vLLM's own event publisher, which can stall it: install "
            "callboard, which brings its plugin, where it runs"
        )
    for number, follower in enumerate(followers):
        rank = f"rank {number} of {name}"
        if follower is None:
            if now - engine.since > PATIENCE:
                yield f"{rank} has no KvEventActor: what it has cached is not known"
        elif not follower.incarnation:
            yield f"{follower.source} is gone: what {rank} has cached is not kept up to date"
        else:
            yield from _of_follower(rank, engine, follower, now)


def _of_follower(rank: str, engine: Engine, follower: Follower, now: float) -> Iterator[str]:
    source, beat = follower.source, follower.beat
    if now - follower.heard > SILENCE:
        yield f"{source} is silent: what {rank} has cached is not kept up to date"
    if not follower.synced and now - max(follower.changed_at, engine.since) > PATIENCE:
        yield f"{source} gives no snapshot: what {rank} has cached is known in part"
    if beat is None:
        return
    if beat.block_size not in (0, engine.card.block_size):
        yield (
            f"{source} names blocks of {beat.block_size} tokens, {rank} has blocks of "
            f"{engine.card.block_size}: nothing matches"
        )
    if follower.behind_since is not None and now - follower.behind_since > PATIENCE:
        yield f"{source} does not keep up with {rank}"
    if not beat.complete and now - max(follower.since, engine.since) > PATIENCE:
        yield f"{source} does not know all that {rank} has cached"
    if follower.orphans_grow:
        yield f"{source} gets more and more blocks of {rank} whose parents it does not know"


def _block_sizes(
    workers: Workers, mismatched: dict[str, tuple[int, float]], now: float
) -> Iterable[str]:
    sizes: dict[str, set[int]] = {}
    for engine in workers.engines.values():
        for model in engine.card.served_names:
            sizes.setdefault(model, set()).add(engine.card.block_size)
    for model, different in sorted(sizes.items()):
        if len(different) > 1:
            listed = ", ".join(map(str, sorted(different)))
            yield (
                f"engines of {model!r} have blocks of {listed} tokens: a prompt matches on those "
                "of one size only, give all the same block_size"
            )
        elif (asked := mismatched.get(model)) and now - asked[1] < REMEMBERED:
            yield (
                f"requests for {model!r} come with blocks of {asked[0]} tokens, its engines have "
                f"blocks of {different.pop()}: nothing matches"
            )

"""A journal of events, written down and read again, gives the same effects to the byte."""

from __future__ import annotations

from itertools import islice
from random import Random

import msgspec
import pytest

from actors.router import events
from actors.router.core import RouterCore
from actors.router.events import AskSnapshot, Effect, Event
from actors.router.settings import Settings
from schemas.block_hash import pack
from tests.actors.router.index.model import held_by
from tests.actors.router.parts import asked, beat, changed, load, part, removed, seen, stored

GROUPS = [[100 * group + n for n in range(20)] for group in range(12)]


def record(seed: int, router: RouterCore) -> tuple[list[Event], list[list[Effect]]]:
    """A busy hour of four engines with two ranks each: one restarts, events get lost."""
    random, journal, effects = Random(seed), list[Event](), list[list[Effect]]()
    sequence = dict.fromkeys(range(4), 0)
    snapshots: list[AskSnapshot] = []
    now = 0.0

    def happens(event: Event) -> None:
        journal.append(event)
        effects.append(router.handle(event))
        snapshots.extend(e for e in effects[-1] if isinstance(e, AskSnapshot))

    for n in range(4):
        happens(seen(f"engine/{n}", 2, kv_publisher="callboard"))
        happens(events.SourceSeen(f"kv-events/{n}.0", 1, True, 0.0))
    for step in range(1500):
        now += random.expovariate(50)
        n = random.randrange(4)
        prompt = pack(random.choice(GROUPS)[: random.randint(1, 20)])
        kind = random.random()
        if kind < 0.35:
            happens(
                asked(
                    step,
                    len(prompt) * 2 + random.randint(1, 40),
                    prompt,
                    now=now,
                    random=random.getrandbits(64),
                    priority=random.randrange(3),
                    deadline=now + 2.0,
                    session=random.choice([None, "a", "b"]),
                )
            )
        elif kind < 0.45:
            happens(events.Started(f"r{random.randrange(step + 1)}", now))
        elif kind < 0.65:
            happens(events.Ended(f"r{random.randrange(step + 1)}", now))
        elif kind < 0.75:
            happens(load(f"engine/{n}", random.randrange(2), running=random.randrange(9), now=now))
        elif kind < 0.9:
            sequence[n] += random.choice([1, 1, 1, 1, 1, 2])
            change = random.choice([stored, stored, removed])(prompt)
            happens(changed(f"engine/{n}", sequence[n], change, now=now))
        elif kind < 0.93:
            happens(beat(f"engine/{n}", sequence[n], now=now))
        else:
            happens(events.Tick(now, random.getrandbits(64)))
        if step == 700:
            happens(events.EngineLost("engine/2", 1))
            happens(seen("engine/2", 2, life=2, now=now, kv_publisher="callboard"))
        while snapshots:
            ask = snapshots.pop()
            number = int(ask.source[10])
            answer = part(f"engine/{number}", sequence[number], stored(pack(GROUPS[number])))
            happens(events.SnapshotCame(ask.ask, answer, now, 1))
    return journal, effects


def test_the_same_journal_gives_the_same_effects():
    settings = Settings(policy="session", temperature=0.3, queue_threshold=0.5)
    journal, effects = record(1, RouterCore(settings))
    written = msgspec.msgpack.encode(journal)
    again = RouterCore(settings)
    replayed = [again.handle(event) for event in msgspec.msgpack.decode(written, type=list[Event])]
    assert msgspec.msgpack.encode(replayed) == msgspec.msgpack.encode(effects)
    # It would show nothing if nothing had happened.
    for name in ("placed", "queued", "blocks_matched", "kv_gaps", "kv_snapshots", "sessions_moved"):
        assert again.counters()[name] > 0, name


def test_from_the_middle_too():
    settings = Settings(policy="kv", temperature=0.3, queue_threshold=0.5)
    journal, effects = record(2, RouterCore(settings))
    half = len(journal) // 2
    first, second = RouterCore(settings), RouterCore()
    for event in journal[:half]:
        first.handle(event)
    second.restore(first.snapshot())
    assert [second.handle(event) for event in journal[half:]] == effects[half:]


def test_from_a_snapshot_that_was_taken_while_it_went_on():
    settings = Settings(policy="kv", temperature=0.3, queue_threshold=0.5)
    journal, effects = record(3, RouterCore(settings))
    for begin in (1, 600, 750, len(journal) - 200):  # 750: slots of a life that is over are swept
        first, second = RouterCore(settings), RouterCore()
        for event in journal[:begin]:
            first.handle(event)
        whole, pieces, taken = first.snapshot(), first.cut(), list[bytes]()
        for event in journal[begin:]:
            first.handle(event)
            taken += islice(pieces, 1)
        second.restore(b"".join([*taken, *pieces]))
        third = RouterCore()
        third.restore(whole)
        assert held_by(second.following.index) == held_by(third.following.index)
        assert second.counters() == third.counters()
        assert [second.handle(event) for event in journal[begin:]] == effects[begin:]


def test_what_is_no_snapshot_changes_nothing():
    core = RouterCore(Settings())
    first, *rest = msgspec.msgpack.decode(core.snapshot(), type=list[msgspec.Raw])
    encode = msgspec.msgpack.encode
    for bad in ([], [first, encode(b"no rows")], [first, *rest, first], [rest[0], first]):
        with pytest.raises(msgspec.ValidationError):
            core.restore(encode(bad))
    assert core.snapshot() == RouterCore(Settings()).snapshot()

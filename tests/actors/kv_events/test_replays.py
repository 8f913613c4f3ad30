"""Replays are served in turns, and nobody can make the actor hold more than it says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from actors.kv_events.replays import END, MAX_ASKERS, MAX_ASKS, PATIENCE, TURN_BATCHES, Replays
from actors.kv_events.window import Window
from bus.clock import VirtualClock
from bus.envelope import Frame
from bus.transport import Sent


class Router:
    """Takes `room` messages for each identity; -1: any number."""

    endpoint = "here"

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, list[bytes]]] = []
        self.room: dict[bytes, int] = {}
        self.gone: set[bytes] = set()

    def send(self, identity: bytes, frames: Sequence[Frame]) -> Sent:
        if identity in self.gone:
            return Sent.NO_ROUTE
        left = self.room.get(identity, -1)
        if left == 0:
            return Sent.FULL
        self.room[identity] = left - 1
        self.sent.append((identity, [bytes(f) for f in frames]))
        return Sent.OK

    def close(self) -> None:
        pass

    def got(self, identity: bytes) -> list[int]:
        """Numbers that this asker got; -1 is the end."""
        return [
            int.from_bytes(f[2], "big", signed=True) for name, f in self.sent if name == identity
        ]


class Served:
    def __init__(self, batches: int) -> None:
        self.clock = VirtualClock()
        self.router = Router()
        self.window = Window(batches=1000, size=1 << 20)
        for sequence in range(1, batches + 1):
            self.window.add(sequence, b"%d" % sequence)
        self.replays = Replays(self.window, b"topic", self.clock)
        self.replays._router = self.router

    def ask(self, identity: bytes, start: int) -> None:
        self.replays._on_frames(identity, [b"", start.to_bytes(8, "big")])

    def run(self, seconds: float = 1.0) -> None:
        self.clock.run(self.clock.now() + seconds)


@pytest.mark.parametrize(
    ("start", "wanted"),
    [(0, [1, 2, 3, -1]), (3, [3, -1]), (4, [-1]), (2**64 - 1, [-1])],
)
def test_from_the_first_that_is_asked_to_the_last_there_is(start, wanted):
    served = Served(3)
    served.ask(b"a", start)
    served.run()
    assert served.router.got(b"a") == wanted
    assert served.router.sent[-1][1] == [b"", b"", END, b""]
    if len(wanted) > 1:
        assert served.router.sent[0][1][:2] == [b"", b"topic"]


def test_askers_take_turns():
    served = Served(500)
    served.ask(b"long", 0)
    served.ask(b"short", 500)
    served.run()
    order = [name for name, _ in served.router.sent]
    assert order.index(b"short") == TURN_BATCHES
    assert served.router.got(b"long") == [*range(1, 501), -1]


def test_who_takes_nothing_holds_up_nobody_and_is_given_up():
    served = Served(500)
    served.router.room = {b"slow": 10}
    served.ask(b"slow", 0)
    served.ask(b"quick", 0)
    served.run()
    assert served.router.got(b"quick") == [*range(1, 501), -1]
    assert served.router.got(b"slow") == list(range(1, 11))
    served.run(PATIENCE)
    assert served.replays.queue().depth == 0
    assert served.replays.dropped == 1
    served.router.room = {}
    served.run()
    assert served.router.got(b"slow") == list(range(1, 11)), "it was given up"


def test_who_comes_back_in_time_goes_on_where_it_was():
    served = Served(100)
    served.router.room = {b"slow": 10}
    served.ask(b"slow", 0)
    served.run()
    served.router.room = {}
    served.run()
    assert served.router.got(b"slow") == [*range(1, 101), -1]


def test_what_the_window_lost_meanwhile_is_left_out():
    served = Served(1000)
    served.router.room = {b"slow": 10}
    served.ask(b"slow", 0)
    served.run()
    for sequence in range(1001, 1101):
        served.window.add(sequence, b"")
    served.router.room = {}
    served.run()
    assert served.router.got(b"slow") == [*range(1, 11), *range(101, 1001), -1]


def test_hostile_askers_are_counted_and_bounded():
    served = Served(3)
    router = served.router
    bad: list[list[bytes]] = [[], [b""], [b"", b"", b""], [b"x", b"\0" * 8], [b"", b"\0" * 9]]
    for frames in bad:
        served.replays._on_frames(b"bad", frames)
    assert served.replays.dropped == len(bad)
    for number in range(2 * MAX_ASKERS):
        name = b"%d" % number
        router.room[name] = 0
        served.ask(name, 0)
    for _ in range(2 * MAX_ASKS):
        served.ask(b"0", 0)
    queue = served.replays.queue()
    assert queue.depth == MAX_ASKERS + MAX_ASKS - 1 <= queue.limit
    assert queue.dropped == len(bad) + MAX_ASKERS + MAX_ASKS + 1
    router.gone = {b"%d" % number for number in range(MAX_ASKERS)}
    served.run()
    assert served.replays.queue().depth == 0


def test_the_window_is_bounded_by_count_and_by_bytes():
    window = Window(batches=10, size=100)
    for sequence in range(5, 30):
        window.add(sequence, b"x" * 3)
    assert (window.first, window.last, len(window), window.size) == (20, 29, 10, 30)
    window.add(30, b"x" * 90)
    assert (window.first, window.last, window.size) == (27, 30, 99)
    window.add(31, b"x" * 500)
    assert (window.first, len(window)) == (31, 1), "the last one is always there"
    assert window.get(30) is None

"""The simulated network behaves as ZMQ does under `ZmqTransport`."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.clock import VirtualClock
from bus.envelope import Frame
from bus.sim_network import RECONNECT, SimNetwork, SimNode
from bus.sim_sockets import SimDealer, SimPublisher, SimRouter, SimSubscriber
from bus.transport import Sent, Transport


class Wires:
    """Sockets on two or more nodes, and all that they got."""

    def __init__(self, seed: int = 0, **network: object) -> None:
        self.clock = VirtualClock()
        self.network = SimNetwork(self.clock, Random(seed), **network)  # type: ignore[arg-type]
        self.got: list[tuple[str, bytes]] = []
        self.writable: list[str] = []

    def node(self, name: str) -> SimNode:
        node: Transport = self.network.node(name)  # it is one
        assert isinstance(node, SimNode)
        return node

    def router(self, node: SimNode, endpoint: str = "r") -> SimRouter:
        def on_frames(identity: bytes, frames: Sequence[Frame]) -> None:
            self.got.append((f"{endpoint} from {identity.decode()}", bytes(frames[0])))

        return node.bind_router(endpoint, on_frames)

    def dealer(self, node: SimNode, endpoint: str = "r", identity: str = "me") -> SimDealer:
        return node.connect_dealer(
            endpoint,
            identity.encode(),
            lambda frames: self.got.append((identity, bytes(frames[0]))),
            lambda: self.writable.append(identity),
        )

    def subscriber(self, node: SimNode, topics: Sequence[str], name: str = "sub") -> SimSubscriber:
        return node.connect_subscriber(
            "p", topics, lambda frames: self.got.append((name, bytes(frames[0])))
        )

    def run(self, seconds: float = 1.0) -> list[tuple[str, bytes]]:
        """What came in that time."""
        before = len(self.got)
        self.clock.run(self.clock.now() + seconds)
        return self.got[before:]


def both() -> tuple[Wires, SimNode, SimNode, SimRouter, SimDealer]:
    wires = Wires()
    here, there = wires.node("here"), wires.node("there")
    router, dealer = wires.router(there), wires.dealer(here)
    wires.run()
    return wires, here, there, router, dealer


def test_requests_and_replies():
    wires, _, _, router, dealer = both()
    assert dealer.send([b"1"]) is Sent.OK
    assert wires.got == []  # never from inside the call
    assert wires.run() == [("r from me", b"1")]
    assert router.send(b"me", [b"2"]) is Sent.OK
    assert router.send(b"you", [b"3"]) is Sent.NO_ROUTE
    assert wires.run() == [("me", b"2")]


def test_a_dealer_waits_for_its_peer_and_is_told():
    wires = Wires()
    dealer = wires.dealer(wires.node("here"))
    wires.run()
    assert dealer.send([b"1"]) is Sent.FULL
    assert wires.writable == []
    wires.router(wires.node("there"))
    wires.run()
    assert wires.writable == ["me"]
    assert dealer.send([b"2"]) is Sent.OK
    assert wires.run() == [("r from me", b"2")]


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.floats(0, 0.01)), max_size=60),
    st.integers(0, 1000),
)
def test_order_holds_within_a_connection(sends, seed):
    wires = Wires(seed, delay=(0.0, 0.05))
    there = wires.node("there")
    wires.router(there)
    dealers = {name: wires.dealer(wires.node(name), identity=name) for name in ("a", "b")}
    wires.run()
    for n, (name, pause) in enumerate(sends):
        assert dealers[name].send([b"%d" % n]) is Sent.OK
        wires.clock.run(wires.clock.now() + pause)
    wires.run()
    for name in dealers:
        expected = [b"%d" % n for n, (who, _) in enumerate(sends) if who == name]
        assert [text for who, text in wires.got if who == f"r from {name}"] == expected


def test_order_does_not_hold_across_connections():
    wires = Wires(delay=(0.0, 0.05))
    wires.router(wires.node("there"))
    names = [f"d{n}" for n in range(10)]
    dealers = [wires.dealer(wires.node("here"), identity=name) for name in names]
    wires.run()
    for dealer in dealers:
        dealer.send([b"x"])
    came = [who for who, _ in wires.run()]
    assert len(came) == len(names)
    assert came != [f"r from {name}" for name in names]


def test_a_connection_holds_so_much_and_says_when_there_is_room():
    wires = Wires(high_water=3)
    there = wires.node("there")
    router, dealer = wires.router(there), wires.dealer(wires.node("here"))
    wires.run()
    wires.writable.clear()
    assert [dealer.send([b"x"]) for _ in range(4)] == [Sent.OK] * 3 + [Sent.FULL]
    assert [router.send(b"me", [b"x"]) for _ in range(4)] == [Sent.OK] * 3 + [Sent.FULL]
    assert len(wires.run()) == 6
    assert wires.writable == ["me"]
    assert dealer.send([b"x"]) is Sent.OK


def test_subscribers_get_the_topics_they_asked_for():
    wires = Wires()
    publisher = wires.node("there").bind_publisher("p")
    wires.subscriber(wires.node("here"), ["life", "load"])
    wires.subscriber(wires.node("here"), [""], "all")
    wires.run()
    for topic in (b"life", b"load", b"loads", b"other", b""):
        publisher.send([topic, b"", b""])
    came = wires.run()
    assert [text for who, text in came if who == "sub"] == [b"life", b"load", b"loads"]
    assert len([who for who, _ in came if who == "all"]) == 5


def test_events_are_lost_and_nothing_else():
    wires = Wires(loss=0.5)
    there = wires.node("there")
    publisher, router = there.bind_publisher("p"), wires.router(there)
    here = wires.node("here")
    wires.subscriber(here, ["t"])
    dealer = wires.dealer(here)
    wires.run()
    for _ in range(200):
        publisher.send([b"t", b"", b""])
        assert dealer.send([b"x"]) is Sent.OK
        assert router.send(b"me", [b"y"]) is Sent.OK
    came = [who for who, _ in wires.run()]
    assert 50 < came.count("sub") < 150
    assert came.count("r from me") == came.count("me") == 200


def test_a_full_publisher_drops_and_tells_nobody():
    wires = Wires(high_water=2)
    publisher = wires.node("there").bind_publisher("p")
    wires.subscriber(wires.node("here"), ["t"])
    wires.run()
    for _ in range(5):
        publisher.send([b"t"])
    assert len(wires.run()) == 2


def test_a_crash_loses_what_is_on_its_way_and_what_is_planned():
    wires, here, there, router, dealer = both()
    ticks: list[str] = []
    there.clock.call_later(0.5, lambda: ticks.append("there"))
    here.clock.call_later(0.5, lambda: ticks.append("here"))
    dealer.send([b"1"])
    router.send(b"me", [b"2"])
    there.crash()
    assert wires.run() == []
    assert ticks == ["here"]
    assert dealer.send([b"3"]) is Sent.FULL
    assert router.send(b"me", [b"4"]) is Sent.NO_ROUTE
    # A next life at the same endpoint is found again, by the same dealer.
    second = wires.router(wires.node("there"))
    wires.run(RECONNECT + 0.1)
    assert dealer.send([b"5"]) is Sent.OK
    assert wires.run() == [("r from me", b"5")]
    here.crash()
    assert second.send(b"me", [b"6"]) is Sent.NO_ROUTE


@pytest.mark.parametrize("who", ["here", "there"])
def test_an_end_in_order_delivers_last_words(who):
    wires, here, there, router, dealer = both()
    dealer.send([b"1"])
    router.send(b"me", [b"2"])
    (here if who == "here" else there).close()
    assert wires.run() == ([("r from me", b"1")] if who == "here" else [("me", b"2")])


def test_a_socket_that_is_closed_hears_nothing():
    wires, _, _, router, dealer = both()
    router.send(b"me", [b"1"])
    dealer.read_and_close()
    assert wires.run() == []
    assert dealer.send([b"2"]) is Sent.FULL
    assert router.send(b"me", [b"3"]) is Sent.NO_ROUTE


def test_a_cut_loses_what_is_on_its_way_and_heals_by_itself():
    wires, _, _, router, dealer = both()
    dealer.send([b"1"])
    router.send(b"me", [b"2"])
    wires.network.cut("there", "here")
    assert dealer.send([b"3"]) is Sent.FULL
    assert router.send(b"me", [b"4"]) is Sent.NO_ROUTE
    assert wires.run(RECONNECT / 2) == []
    assert wires.run() == []
    assert dealer.send([b"5"]) is Sent.OK
    assert router.send(b"me", [b"6"]) is Sent.OK
    assert sorted(wires.run()) == [("me", b"6"), ("r from me", b"5")]


def test_a_partition_lasts_until_it_is_healed():
    wires, _, _, _, dealer = both()
    third = wires.dealer(wires.node("third"), identity="third")
    wires.run()
    wires.network.partition({"here"}, {"there"})
    wires.run(10.0)
    assert dealer.send([b"1"]) is Sent.FULL
    assert third.send([b"2"]) is Sent.OK  # not named: it reaches everybody
    late = wires.dealer(wires.node("here"), identity="late")
    assert wires.run() == [("r from third", b"2")]
    assert late.send([b"3"]) is Sent.FULL
    wires.network.partition({"third"}, {"there"})  # another one instead
    wires.run()
    assert [d.send([b"4"]) for d in (dealer, late, third)] == [Sent.OK, Sent.OK, Sent.FULL]
    wires.network.heal()
    wires.run()
    assert third.send([b"5"]) is Sent.OK


def test_a_peer_that_connects_again_takes_its_identity_back():
    wires, _, _, router, dealer = both()
    again = wires.dealer(wires.node("elsewhere"))
    wires.run()
    router.send(b"me", [b"1"])
    assert wires.run() == [("me", b"1")]
    dealer.close()
    assert router.send(b"me", [b"2"]) is Sent.OK
    again.close()
    assert router.send(b"me", [b"3"]) is Sent.NO_ROUTE


def test_an_endpoint_belongs_to_one():
    wires = Wires()
    wires.router(wires.node("a"))
    with pytest.raises(OSError, match="r is in use"):
        wires.router(wires.node("b"))


def test_a_publisher_may_be_found_before_it_is_there():
    wires = Wires()
    wires.subscriber(wires.node("here"), [""])
    wires.run()
    publisher: SimPublisher = wires.node("there").bind_publisher("p")
    wires.run()
    publisher.send([b"t"])
    assert wires.run() == [("sub", b"t")]


@given(st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_times(seed):
    def times(seed: int) -> list[float]:
        found: list[float] = []
        wires = Wires(seed, on_delivery=lambda now, *_: found.append(now))
        router, dealer = wires.router(wires.node("there")), wires.dealer(wires.node("here"))
        wires.run()
        for _ in range(5):
            dealer.send([b"x"])
            router.send(b"me", [b"y"])
            wires.run()
        return found

    assert times(seed) == times(seed)
    assert times(seed) != times(seed + 1)

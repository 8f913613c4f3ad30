"""The queue in front of a socket: in order, bounded, and nothing is lost silently."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus.outgoing import Outgoing
from bus.transport import Sent


class Socket:
    """Takes as many messages as it has room for."""

    def __init__(self) -> None:
        self.room = 0
        self.gone = False
        self.got: list[bytes] = []

    def send(self, frames) -> Sent:
        if self.gone:
            return Sent.NO_ROUTE
        if not self.room:
            return Sent.FULL
        self.room -= 1
        self.got.append(frames[0])
        return Sent.OK


@given(st.lists(st.integers(-1, 5), max_size=60), st.integers(0, 4))
def test_messages_leave_in_order_and_refused_ones_never(steps, limit):
    """-1 pushes, another number makes room for so many and flushes."""
    socket = Socket()
    queue = Outgoing(socket.send, limit)
    taken: list[bytes] = []
    for n, step in enumerate(steps):
        if step == -1:
            message = b"%d" % n
            sent = queue.push([message])
            assert (sent is Sent.OK) or (sent is Sent.FULL and len(queue) == limit)
            if sent is Sent.OK:
                taken.append(message)
        else:
            socket.room = step
            sent = queue.flush()
            assert sent is (Sent.FULL if len(queue) else Sent.OK)
        assert len(queue) <= limit
        assert socket.got == taken[: len(socket.got)]
        assert len(socket.got) + len(queue) == len(taken)


def test_what_waits_for_a_peer_that_left_stays_to_be_counted():
    socket = Socket()
    queue = Outgoing(socket.send, 10)
    for n in range(3):
        assert queue.push([b"%d" % n]) is Sent.OK
    socket.gone = True
    assert queue.flush() is Sent.NO_ROUTE
    assert len(queue) == 3
    assert queue.clear() == 3
    assert queue.push([b"4"]) is Sent.NO_ROUTE
    assert len(queue) == 0

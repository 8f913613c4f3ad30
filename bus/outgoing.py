"""A bounded queue in front of a socket that cannot take a message now."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from bus.envelope import Frame
from bus.transport import Sent

LIMIT = 4096
"""Messages that may wait for one peer, beyond what the socket holds."""


class Outgoing:
    """Sends in order. While the socket says FULL, messages wait here, up to `limit`.

    `push` returns FULL when the limit is reached: the message was not taken, and the caller says
    so to whoever waits for it.
    """

    def __init__(self, send: Callable[[Sequence[Frame]], Sent], limit: int = LIMIT) -> None:
        self._send = send
        self._limit = limit
        self._waiting: deque[Sequence[Frame]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, frames: Sequence[Frame]) -> Sent:
        if not self._waiting:
            sent = self._send(frames)
            if sent is not Sent.FULL:
                return sent
        if len(self._waiting) >= self._limit:
            return Sent.FULL
        self._waiting.append(frames)
        return Sent.OK

    def flush(self) -> Sent:
        """Send what can be sent now. NO_ROUTE: the peer left; the rest waits for `clear`."""
        while self._waiting:
            sent = self._send(self._waiting[0])
            if sent is not Sent.OK:
                return sent
            self._waiting.popleft()
        return Sent.OK

    def clear(self) -> int:
        dropped = len(self._waiting)
        self._waiting.clear()
        return dropped

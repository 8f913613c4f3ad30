"""What is open with a peer, compared with what the peer has open: nothing hangs on one side only.

A connection that breaks loses what was on its way, and tells nobody. Order holds within a
connection, so one ask and its answer say what is missing: see "Lost requests" in the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bus.clock import Clock, Timer
from bus.pending import Done, Pending
from schemas.life import Reconcile, Reconciled
from schemas.message import Message
from schemas.refusal import Refusal

INTERVAL = 1.0
"""Seconds between comparisons: what is answered sooner never costs one."""
ANSWER = 5.0
"""Seconds until a comparison that was not answered is made again."""
AGAIN = ("deadline", "overloaded", "unreachable")
"""Refusals after which the peer may still have open what we withdrew."""


class Reconciling:
    """Compares with each peer that has had an ask of ours for a while, or that we sent a CANCEL.

    `lost` gets the correlation id and the peer of an ask that the peer does not have.
    """

    def __init__(
        self,
        clock: Clock,
        pending: Pending,
        ask: Callable[[str, Reconcile, Done, float], None],
        lost: Callable[[int, str], None],
    ) -> None:
        self._clock = clock
        self._pending = pending
        self._ask = ask
        self._lost = lost
        self._withdrawn: set[str] = set()
        self._compared: set[str] = set()  # now, the answer is not here yet
        self._mark = 0  # the last correlation id of the tick before
        self._timer: Timer | None = None

    def watch(self) -> None:
        """Something was asked."""
        if self._timer is None:
            self._timer = self._clock.call_later(INTERVAL, self._tick)

    def withdrawn(self, peer: str) -> None:
        """A CANCEL was sent, and may be lost."""
        self._withdrawn.add(peer)
        self.watch()

    def forget(self, peer: str) -> None:
        """Its life is over."""
        self._withdrawn.discard(peer)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = None
        listed = self._pending.by_peer()
        for peer in sorted({*listed, *self._withdrawn} - self._compared):
            correlations = listed.get(peer, [])
            if peer in self._withdrawn or correlations[0] <= self._mark:
                self._compare(peer, correlations)
        self._mark = self._pending.last
        if listed or self._withdrawn:
            self.watch()

    def _compare(self, peer: str, correlations: list[int]) -> None:
        self._compared.add(peer)
        self._withdrawn.discard(peer)
        self._ask(peer, Reconcile(correlations), partial(self._answered, peer), ANSWER)

    def _answered(self, peer: str, answer: Message) -> None:
        self._compared.discard(peer)
        if isinstance(answer, Reconciled):
            for correlation in answer.unknown:
                self._lost(correlation, peer)
        elif isinstance(answer, Refusal) and answer.code in AGAIN:
            self.withdrawn(peer)

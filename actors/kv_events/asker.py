"""Asks a source for a replay or a census, in vLLM's protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from actors.kv_events.effects import BatchCame, CensusCame, CoreEvent, Malformed, ReplayEnded
from bus.clock import Clock, Timer
from bus.envelope import UNREADABLE, Frame
from bus.transport import Dealer, Sent, Transport
from schemas.kv_events import BlockHash

TRIES = 3
TIMEOUT = 2.0
"""Seconds without a word of an answer after which it is asked again."""
CENSUS_TIMEOUT = 12.0
"""A census is taken between two steps of the engine, and some are long."""
END = (-1).to_bytes(8, "big", signed=True)
CENSUS = b"census"

_read_counts = msgspec.msgpack.Decoder(dict[BlockHash, int]).decode
_read_groups = msgspec.msgpack.Decoder(dict[int, dict[BlockHash, int]]).decode


class Asker:
    """One request at a time, each try on a connection of its own, so that none mixes with another.

    Every request ends in a `ReplayEnded` or a `CensusCame`.
    """

    def __init__(
        self,
        source: str,
        endpoint: str,
        transport: Transport,
        clock: Clock,
        wall: Callable[[], float],
        tell: Callable[[CoreEvent], None],
    ) -> None:
        self._source = source
        self._endpoint = endpoint
        self._transport = transport
        self._clock = clock
        self._wall = wall
        self._tell = tell
        self._dealer: Dealer | None = None
        self._timer: Timer | None = None
        self._made = 0
        self._heard = False

    def replay(self, start: int) -> None:
        self._begin(start.to_bytes(8, "big"), TRIES)

    def census(self) -> None:
        self._begin(CENSUS, TRIES)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._dealer is not None:
            self._dealer.close()
            self._dealer = None

    def _begin(self, request: bytes, tries: int) -> None:
        self.close()
        self._request, self._tries, self._heard = request, tries, False
        self._made += 1
        identity = f"callboard-{self._source}-{id(self)}-{self._made}".encode()
        self._dealer = self._transport.connect_dealer(
            self._endpoint, identity, self._on_frames, self._send
        )
        self._unsent = True
        self._send()
        patience = CENSUS_TIMEOUT if request == CENSUS else TIMEOUT
        self._timer = self._clock.call_later(patience, self._check)

    def _send(self) -> None:
        """Now, or as soon as the connection is up."""
        if self._unsent and self._dealer is not None:
            self._unsent = self._dealer.send([b"", self._request]) is not Sent.OK

    def _check(self) -> None:
        if self._heard:
            self._heard = False
            self._timer = self._clock.call_later(TIMEOUT, self._check)
        elif self._tries > 1:
            self._begin(self._request, self._tries - 1)
        else:
            self._end(answered=False)

    def _end(self, *, answered: bool) -> None:
        self.close()
        if self._request == CENSUS:
            self._tell(CensusCame(self._wall(), self._source, 0, None))
        else:
            self._tell(ReplayEnded(self._wall(), self._source, answered))

    def _on_frames(self, frames: Sequence[Frame]) -> None:
        self._heard = True
        if self._dealer is None:
            return
        if len(frames) < 4 or len(frames[2]) != 8:
            self._tell(Malformed(self._source, f"{len(frames)} frames answer a replay"))
        elif bytes(frames[2]) == END:
            self._end(answered=True)
        elif self._request != CENSUS:
            sequence = int.from_bytes(frames[2], "big")
            batch = BatchCame(self._wall(), self._source, sequence, bytes(frames[3]), True)
            self._tell(batch)
        elif bytes(frames[1]) == CENSUS:
            self._census(frames)

    def _census(self, frames: Sequence[Frame]) -> None:
        through = int.from_bytes(frames[2], "big")
        try:
            counts = _read_counts(frames[3])
            groups = _read_groups(frames[4]) if len(frames) > 4 else {}
        except UNREADABLE as error:
            self._tell(Malformed(self._source, f"a census: {error}"))
            return  # the end marker comes next
        self.close()
        self._tell(CensusCame(self._wall(), self._source, through, counts, groups))

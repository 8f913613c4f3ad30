"""One source's batches in their order: losses, duplicates, what must wait. Pure.

Batches are numbered by their publisher. What is missing is asked for on its replay socket; what
came after it waits meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import msgspec

from actors.kv_events.bare import digest_of, size_of

MAX_HELD = 10_000
MAX_HELD_BYTES = 64 << 20
"""What waits for earlier batches, at most. More is dropped: the replay brings it again."""
RECENT = 1_024
"""Batches back that are remembered, to tell one that came twice from one of another life."""
LIFE_BITS = 22
"""Callboard's publisher numbers from its engine's incarnation times 2**22."""
FAR = 1 << (LIFE_BITS - 1)
"""A step of this size is no gap."""
PROBES = (1, 3, 7, 15)
"""Quiet seconds after which we ask whether the last batches were lost; then every 30."""


class Verdict(Enum):
    """What became of a batch that was offered."""

    TAKEN = "taken"  # `pop` gives it
    HELD = "held"  # it waits for others
    DROPPED = "dropped"
    RESTARTED = "restarted"  # the publisher has begun anew


class FeedState(msgspec.Struct):
    """`expected`: the next batch, None while nothing of this life has come. `newest`: the last one

    that is known to be published. `base`: the first number of this life. `suspect`: what comes may
    be of a life before that had the same numbers, until so many replays have said what there is.
    """

    expected: int | None = None
    newest: int = -1
    base: int = 0
    suspect: int = 0
    held: dict[int, bytes] = {}
    held_bytes: int = 0
    recent: dict[int, int] = {}
    joined: bool = False
    blind: bool = False
    asking: bool = False
    counting: bool = False
    asked_at: int | None = None
    asked_newest: int = -1
    replayed: int = -1
    vouched: dict[int, None] = {}
    quiet: int = 0
    batches: int = 0
    lost: int = 0
    late: int = 0
    duplicates: int = 0
    overflowed: int = 0
    refused: int = 0


class Feed:
    """A source. `replayable`: it can be asked for what is missing."""

    def __init__(self, name: str, *, replayable: bool) -> None:
        self.name = name
        self.replayable = replayable
        self.state = FeedState()

    def reset(self) -> None:
        """A new life: nothing of it is known. Counters go on."""
        old = self.state
        self.state = FeedState(
            suspect=2 * (self.replayable and old.base == 0),
            batches=old.batches,
            lost=old.lost,
            late=old.late + len(old.held),
            duplicates=old.duplicates,
            overflowed=old.overflowed,
            refused=old.refused,
        )

    def is_next(self, sequence: int) -> bool:
        """It is the next batch, and nothing is missing."""
        state = self.state
        return not (
            sequence != state.expected
            or sequence <= state.newest
            or state.held
            or state.counting
            or state.suspect
        )

    def took(self, first: int, payloads: Sequence[bytes]) -> None:
        """The next batches were taken in, as `offer` and `pop` would."""
        state = self.state
        state.quiet = 0
        state.newest = first + len(payloads) - 1
        self._taken(first, payloads)

    def offer(
        self, sequence: int, payload: bytes, *, ours: bool, replayed: bool = False
    ) -> Verdict:
        """A batch has come. `ours`: its number contains the life of its publisher."""
        state = self.state
        if replayed:
            state.replayed = max(state.replayed, sequence)
            if state.suspect:
                state.vouched[sequence] = None
        else:
            state.quiet = 0
        if state.expected is None:
            state.suspect *= not ours
            base = sequence >> LIFE_BITS << LIFE_BITS if ours else 0
            state.base = base
            if (sequence == base and not state.suspect) or not self.replayable:
                state.blind = sequence != base
                state.expected = sequence
                state.joined = True
        expected = state.expected
        if expected is not None and sequence < expected:
            if replayed:
                return Verdict.DROPPED
            if not ours and state.recent.get(sequence) != digest_of(payload):
                return Verdict.RESTARTED
            state.duplicates += 1
            return Verdict.DROPPED
        state.newest = max(state.newest, sequence)
        if (twin := state.held.get(sequence)) is not None:
            if replayed:  # by its publisher itself: the other may be of the life before
                state.held[sequence] = payload
                state.held_bytes += size_of(payload) - size_of(twin)
                return Verdict.TAKEN if sequence == expected else Verdict.HELD
            state.duplicates += 1
            return Verdict.DROPPED
        if sequence != expected and (
            len(state.held) >= MAX_HELD or state.held_bytes + size_of(payload) > MAX_HELD_BYTES
        ):
            state.overflowed += 1
            return Verdict.DROPPED
        state.held[sequence] = payload
        state.held_bytes += size_of(payload)
        return Verdict.TAKEN if sequence == expected else Verdict.HELD

    def pop(self) -> tuple[int, bytes] | None:
        """The next batch in order, if it is here."""
        state = self.state
        sequence = state.expected
        if (
            sequence is None
            or state.counting
            or state.suspect
            or (payload := state.held.pop(sequence, None)) is None
        ):
            return None
        state.held_bytes -= size_of(payload)
        self._taken(sequence, [payload])
        return sequence, payload

    def _taken(self, first: int, payloads: Sequence[bytes]) -> None:
        state = self.state
        state.expected = after = first + len(payloads)
        state.batches += len(payloads)
        if state.base == 0:
            recent = state.recent
            for sequence, payload in enumerate(payloads, first):
                recent[sequence] = digest_of(payload)
                recent.pop(sequence - RECENT, None)
            if len(recent) > RECENT:  # some numbers were left out
                state.recent = {n: h for n, h in recent.items() if n >= after - RECENT}

    def refuse(self, sequence: int) -> None:
        """The batch that `pop` gave cannot be read: it is missing, as if it had not come."""
        state = self.state
        state.refused += 1
        state.batches -= 1
        state.expected = sequence
        state.recent.pop(sequence, None)

    @property
    def most(self) -> int:
        """How many batches may wait."""
        return MAX_HELD

    @property
    def missing(self) -> int:
        """How many batches are known to be published and have not come."""
        state = self.state
        start = state.base if state.expected is None else state.expected
        return max(
            int(state.suspect and bool(state.held)), state.newest + 1 - start - len(state.held)
        )

    def ask(self) -> int:
        """We ask for a replay now; returns from where."""
        state = self.state
        state.asking = True
        state.asked_at = state.expected
        state.asked_newest = state.newest
        state.replayed = -1
        return state.expected or 0

    def drop_stale(self) -> None:
        """Batches that came before we asked, and that the publisher does not have, are not its own.

        They are of the life before, which numbered from 0 as well.
        """
        state = self.state
        if state.base != 0:
            return
        first, last = state.replayed + 1, state.asked_newest
        if state.suspect:  # or the life before had a batch that the present one has no more
            first, last = 0, max(last, state.replayed)
        for sequence in [s for s in state.held if first <= s <= last and s not in state.vouched]:
            state.held_bytes -= size_of(state.held.pop(sequence))
            state.late += 1
        state.vouched = {}
        last = max(state.replayed, (state.expected or 0) - 1)
        state.newest = max(state.held, default=last)
        if state.suspect:
            state.suspect = state.suspect - 1 if state.newest > last else 0
            if not state.suspect and 0 in state.held:
                state.expected, state.joined = 0, True

    def gap(self) -> tuple[int, int]:
        """First and last of the batches that are missing before the next that is here."""
        state = self.state
        first = state.base if state.expected is None else state.expected
        return first, min(state.held, default=state.newest + 1) - 1

    def skip_to(self, sequence: int) -> None:
        """What is before is not waited for any more."""
        state = self.state
        state.expected = sequence
        state.joined = True
        for number in [s for s in state.held if s < sequence]:
            state.held_bytes -= size_of(state.held.pop(number))

    def tick(self) -> bool:
        """A second is over; True if it is time to ask whether anything was lost at the end."""
        state = self.state
        state.quiet += 1
        if state.asking or state.counting or not self.replayable:
            return False
        return state.quiet in PROBES or state.quiet % 30 == 0

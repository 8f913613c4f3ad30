"""A recorded core, played again: the same events must give the same effects. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from bus.core import Core
from bus.journal import format as form
from bus.journal.codec import Codec
from bus.journal.format import Header
from bus.journal.lives import Life
from bus.journal.reader import Damage, Numbered, Segment
from bus.journal.snapshots import state_of

CodecOf = Callable[[Header], Codec[Any, Any]]
BREAKS = frozenset({"dropped", "left_out", "raised"})
"""Notes after which the core cannot be followed until the next snapshot."""
NONE = b"\x90"
"""No effects: an empty array."""


class Difference(msgspec.Struct, frozen=True):
    """The first event at which the core decides otherwise.

    `expected` are the recorded effects as plain data, `got` those of now; None where the core
    raised, then or now, and `raised` says what.
    """

    number: int
    time: float
    event: Any
    expected: list[Any] | None
    got: list[Any] | None
    raised: str


class Played(msgspec.Struct):
    """What was played. `events` by the core, `passed` over for want of a state to begin from.

    `span` in seconds of the actor's clock. `notes` say what is missing, and why.
    """

    actor: str
    incarnation: int
    core: str
    events: int = 0
    passed: int = 0
    segments: int = 0
    first: float | None = None
    last: float = 0.0
    difference: Difference | None = None
    notes: list[str] = []

    @property
    def span(self) -> float:
        return 0.0 if self.first is None else self.last - self.first


def play(
    life: Life,
    codec_of: CodecOf,
    *,
    until: int | None = None,
    on_event: Callable[[int], None] = lambda _number: None,
) -> Played:
    """Play one life to its end, to its first difference, or to the record `until` (not played).

    `on_event` hears the number of each record of an event, for a progress bar. Raises
    `JournalError` where this core cannot be played at all.
    """
    player = _Player(life, codec_of)
    player.follow(life, until, on_event)
    return player.played


def state_before(life: Life, codec_of: CodecOf, number: int) -> Any:
    """The core's state before the event of this record, as plain data. Plays up to there."""
    player = _Player(life, codec_of)
    player.follow(life, number)
    return player.state()


class _Player:
    def __init__(self, life: Life, codec_of: CodecOf) -> None:
        self.played = Played(life.actor, life.incarnation, life.header.core)
        self._codec_of = codec_of
        self._codec: Codec[Any, Any] | None = None
        self._core: Core[Any, Any] | None = None
        self._header = life.header
        self._opened: Segment | None = None
        """A segment of which no event has come yet."""
        self._next: int | None = None
        self._event: Numbered | None = None
        """The event that was given last, and has not been compared yet."""
        self._got: list[Any] | None = None
        self._raised = ""
        self._waiting: Any = None
        """An event that the core gets when it has been told of the recorded effects."""

    def follow(
        self,
        life: Life,
        until: int | None,
        on_event: Callable[[int], None] = lambda _number: None,
    ) -> None:
        """To the end, to the first difference, or to the record `until`."""
        for one in life:
            if isinstance(one, Segment):
                self.segment(one)
            elif isinstance(one, Damage):
                self.lose(f"{one.path.name}: {one.text}")
            elif until is not None and one.number >= until:
                self._settle(one.record)
                return
            else:
                self.record(one)
                if isinstance(one.record, form.Event):
                    on_event(one.number)
            if self.played.difference is not None:
                return

    def segment(self, segment: Segment) -> None:
        before, header = self._header, segment.header
        self._header, self._opened = header, segment
        self.played.segments += 1
        if not header.core:  # it had not begun yet
            self._core = None
            return
        if header.fixed:
            raise form.JournalError(f"{header.actor} cannot be played: {header.fixed}")
        self._codec = self._codec_of(header)
        self.played.core = header.core
        # One that was followed so far needs no snapshot, unless it knows less of what it holds.
        if self._core is None or before.flight != header.flight:
            self._begin(segment)

    def _begin(self, segment: Segment) -> None:
        """Where the segment has the state that it begins with."""
        state = state_of(segment.path)
        if state is None:
            return
        assert self._codec is not None
        core = self._codec.core(self._header)
        try:
            core.restore(state)
        except msgspec.MsgspecError as error:
            raise form.JournalError(
                f"the state of {self._header.actor} in segment {self._header.number} is of another "
                f"version: {error}"
            ) from None
        self._core = core

    def lose(self, why: str) -> None:
        self._core = self._waiting = None
        self._event = None
        self.played.notes.append(why)

    def record(self, one: Numbered) -> None:
        record = one.record
        if self._next is not None and one.number != self._next:
            self.lose(f"records {self._next} to {one.number - 1} are missing")
        self._settle(record)
        self._next = one.number + 1
        if self.played.difference is not None:
            return
        if isinstance(record, form.Event):
            self._give(one, record)
        elif isinstance(record, form.Effects):
            self._compare(bytes(record.effects))
        elif isinstance(record, form.Note):
            self._note(record)

    def _settle(self, following: form.Record) -> None:
        """An event that something else follows had no effects; of the last one nobody knows."""
        if self._event is not None and not isinstance(following, form.Effects | form.Note):
            self._compare(NONE)

    def _note(self, note: form.Note) -> None:
        if note.name == "raised":
            self._compare_raised(note.text)
        if note.name in BREAKS:
            self.lose(f"{note.name}: {note.text}")
            # Dropped were those before this segment: it says so itself, ahead of its snapshot.
            if note.name == "dropped" and self._opened is not None:
                self._begin(self._opened)
        elif note.name in ("stopped", "no_snapshot"):
            self.played.notes.append(f"{note.name}: {note.text}")

    def _give(self, one: Numbered, record: form.Event) -> None:
        self._opened = None
        if self._core is None or self._codec is None:
            self.played.passed += 1
            return
        try:
            event = self._codec.decode_event(record.event)
        except msgspec.MsgspecError as error:
            raise form.JournalError(
                f"event {one.number} of {self._header.actor}: {error}"
            ) from None
        self._event = one
        self._got, self._raised = None, ""
        played = self.played
        played.events += 1
        played.first = record.time if played.first is None else played.first
        played.last = record.time
        if self._codec.foretell is not None and self._header.redacted:
            self._waiting = event
        else:
            self._handle(event)

    def _handle(self, event: Any) -> None:
        assert self._core is not None
        try:
            self._got = self._core.handle(event)
        except Exception as error:  # noqa: BLE001 - whatever a core raises is what it did
            self._raised = repr(error)

    def _compare(self, expected: bytes) -> None:
        if self._event is None or self._core is None or self._codec is None:
            return
        self._tell(expected)
        if self._got is not None:
            got = self._encoded(self._got)
            if got == expected or got == self._as_now(expected):
                self._event = None
                return
        self._differs(_plain(expected))

    def _compare_raised(self, text: str) -> None:
        if self._event is None or self._core is None:
            return
        self._tell(NONE)
        if self._raised:
            self._event = None
            return
        self._raised = f"when it was recorded: {text}"
        self._differs(None)

    def _encoded(self, effects: list[Any]) -> bytes:
        assert self._codec is not None
        header = self._header
        return self._codec.encode_effects(effects, redacted=header.redacted, flight=header.flight)

    def _tell(self, effects: bytes) -> None:
        """The event that waits is given now."""
        if self._waiting is None:
            return
        assert self._codec is not None
        assert self._codec.foretell is not None
        assert self._core is not None
        event, self._waiting = self._waiting, None
        try:
            self._codec.foretell(self._core, self._codec.decode_effects(effects))
        except (msgspec.MsgspecError, ValueError) as error:
            raise form.JournalError(
                f"effects of {self._header.actor} at {self._next}: {error}"
            ) from None
        self._handle(event)

    def _as_now(self, effects: bytes) -> bytes:
        """What was recorded, as this version writes it: with fields that were appended since, and
        without the ways of another encoder, 1 for 1.0, which redaction keeps.
        """
        codec = self._codec
        assert codec is not None
        try:
            return codec.encode_effects(codec.decode_effects(effects), flight=self._header.flight)
        except msgspec.MsgspecError:  # redacted: shown as it is
            return effects

    def _differs(self, expected: list[Any] | None) -> None:
        one = self._event
        assert one is not None
        assert isinstance(one.record, form.Event)
        got = None if self._got is None else _plain(self._encoded(self._got))
        self.played.difference = Difference(
            one.number,
            one.record.time,
            _plain(bytes(one.record.event)),
            expected,
            got,
            self._raised,
        )

    def state(self) -> Any:
        """As plain data."""
        return None if self._core is None else _plain(self._core.snapshot())


def _plain(data: bytes) -> Any:
    return msgspec.msgpack.decode(data)

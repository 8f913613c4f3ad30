"""Replay finds the first event at which a core decides otherwise, and follows what it can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus.core import Core, CoreRecord
from bus.identity import Identity
from bus.journal.codec import Codec
from bus.journal.format import Header, JournalError
from bus.journal.lives import Life, find
from bus.journal.recorder import Plan, Recorder
from bus.journal.replay import Difference, play, state_before

MB = 1 << 20


class Add(CoreRecord, frozen=True):
    number: int


class Sum(CoreRecord, frozen=True):
    total: int


class Start(msgspec.Struct, frozen=True):
    total: int


class Adder:
    """Adds; it cannot count above `worst`, and raises at negative numbers."""

    worst = 1 << 30

    def __init__(self, total: int) -> None:
        self.total = total

    def handle(self, event: Add) -> list[Sum]:
        if event.number < 0:
            raise ValueError("negative")
        self.total = min(self.worst, self.total + event.number)
        return [Sum(self.total)]

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.total)

    def restore(self, data: bytes) -> None:
        self.total = msgspec.msgpack.decode(data, type=int)


class Worse(Adder):
    worst = 6


def codec_with(core: type[Adder]) -> Codec[Add, Sum]:
    return Codec("adder", Add, Sum, Start, lambda start: core(start.total))


def right(_header: Header) -> Codec[Add, Sum]:
    return codec_with(Adder)


def wrong(_header: Header) -> Codec[Add, Sum]:
    return codec_with(Worse)


def recorded(path: Path, *numbers: int) -> Life:
    recorder = Recorder(Identity("adder/0", 7), lambda _text: None)
    recorder.start(Plan(path, 64 * MB))
    decide = recorder.of_core(codec_with(Adder), Adder(0), Start(0))
    for number in numbers:
        try:
            decide(Add(number))
        except ValueError:
            continue
    recorder.close()
    (life,), _ = find(path)
    return life


def test_the_same(tmp_path: Path):
    heard: list[int] = []
    played = play(recorded(tmp_path, 1, 2, 3), right, on_event=heard.append)
    assert (played.core, played.events, played.difference) == ("adder", 3, None)
    assert len(heard) == 3


def test_the_first_difference_with_the_state_before_it(tmp_path: Path):
    life = recorded(tmp_path, 1, 2, 3, 4, 5)
    difference = play(life, wrong).difference
    assert difference == Difference(
        difference.number if difference else 0,
        difference.time if difference else 0.0,
        event=["Add", 4],
        expected=[["Sum", 10]],
        got=[["Sum", 6]],
        raised="",
    )
    assert state_before(life, wrong, difference.number) == 6
    assert play(life, wrong, until=difference.number).difference is None


class Quiet(Adder):
    """Says nothing of zeros; how it counts them is what may change."""

    zeros = 0

    def handle(self, event: Add) -> list[Sum]:
        self.total += event.number or self.zeros
        return [Sum(self.total)] if event.number or self.zeros else []


class Loud(Quiet):
    zeros = 5


def quiet_life(path: Path, *numbers: int) -> Life:
    recorder = Recorder(Identity("adder/0", 7), lambda _text: None)
    recorder.start(Plan(path, 64 * MB))
    decide = recorder.of_core(codec_with(Quiet), Quiet(0), Start(0))
    for number in numbers:
        decide(Add(number))
    recorder.close()
    (life,), _ = find(path)
    return life


def test_effects_where_there_were_none_are_a_difference(tmp_path: Path):
    life = quiet_life(tmp_path, 1, 0, 0, 2)
    played = play(life, lambda _: codec_with(Quiet))
    assert (played.events, played.difference) == (4, None)
    difference = play(life, lambda _: codec_with(Loud)).difference
    assert difference is not None
    assert (difference.event, difference.expected, difference.got) == (["Add", 0], [], [["Sum", 6]])
    assert state_before(life, lambda _: codec_with(Loud), difference.number) == 1


def test_what_the_last_event_led_to_may_be_missing(tmp_path: Path):
    """As after a crash: no difference is made of that."""
    life = quiet_life(tmp_path, 1, 0)
    played = play(life, lambda _: codec_with(Loud))
    assert (played.events, played.difference) == (2, None)


def test_what_raised_then_raises_now_and_the_rest_is_followed(tmp_path: Path):
    played = play(recorded(tmp_path, 1, -1, 2, 3), right)
    assert played.difference is None
    assert played.events == 4
    assert played.notes == ["raised: ValueError('negative')"]


def test_what_raised_then_and_does_not_now_is_a_difference(tmp_path: Path):
    class Mild(Adder):
        def handle(self, event: Add) -> list[Sum]:
            return super().handle(Add(abs(event.number)))

    difference = play(recorded(tmp_path, 1, -1), lambda _: codec_with(Mild)).difference
    assert difference is not None
    assert (difference.expected, difference.got) == (None, [["Sum", 2]])
    assert difference.raised == "when it was recorded: ValueError('negative')"


def test_what_raises_now_is_a_difference(tmp_path: Path):
    class Broken(Adder):
        def handle(self, event: Add) -> list[Sum]:
            if event.number == 2:
                raise RuntimeError("broken")
            return super().handle(event)

    difference = play(recorded(tmp_path, 1, 2), lambda _: codec_with(Broken)).difference
    assert difference is not None
    assert (difference.got, difference.raised) == (None, "RuntimeError('broken')")


def test_a_journal_whose_beginning_is_gone_begins_at_the_next_snapshot(tmp_path: Path):
    recorder = Recorder(Identity("adder/0", 7), lambda _text: None)
    decide = recorder.of_core(codec_with(Adder), Adder(0), Start(0))
    for number in range(2):
        recorder.start(Plan(tmp_path / str(number), 64 * MB))
        decide(Add(3))
        decide(Add(4))
    recorder.close()
    (life,), _ = find(tmp_path / "1")
    played = play(life, right)
    assert (played.events, played.passed, played.difference) == (2, 0, None)


def test_a_torn_end_is_said_and_the_rest_is_played(tmp_path: Path):
    recorded(tmp_path, *range(200))
    (path,) = [p for p in tmp_path.rglob("*.cbj") if p.stat().st_size > 1000]
    path.write_bytes(path.read_bytes()[:-200])
    (life,), _ = find(tmp_path)
    played = play(life, right)
    assert played.difference is None
    assert any("block" in note for note in played.notes)


def test_a_core_that_cannot_be_played_says_why(tmp_path: Path):
    fixed = Codec("adder", Add, Sum, Start, lambda s: Adder(s.total), fixed="it has no memory")
    recorder = Recorder(Identity("adder/0", 7), lambda _text: None)
    recorder.start(Plan(tmp_path, 64 * MB, flight=True))
    recorder.of_core(fixed, Adder(0), Start(0))(Add(1))
    recorder.close()
    (life,), _ = find(tmp_path)
    with pytest.raises(JournalError, match="adder/0 cannot be played: it has no memory"):
        play(life, lambda _: fixed)


class Guesser(Adder):
    """Its number comes from an event, or is foretold."""

    foretold: list[int] | None = None

    def handle(self, event: Add) -> list[Sum]:
        number = event.number if self.foretold is None else self.foretold[0] - self.total
        return super().handle(Add(number))


def test_a_core_is_told_what_a_redacted_journal_lacks(tmp_path: Path):
    def foretell(core: Core[Add, Sum], effects: list[Sum]) -> None:
        assert isinstance(core, Guesser)
        core.foretold = [effect.total for effect in effects] or None

    codec = Codec(
        "adder",
        Add,
        Sum,
        Start,
        lambda start: Guesser(start.total),
        redact_event=lambda event: Add(0) if event.number > 0 else event,
        foretell=foretell,
    )
    recorder = Recorder(Identity("adder/0", 7), lambda _text: None)
    recorder.start(Plan(tmp_path, 64 * MB))
    decide = recorder.of_core(codec, Guesser(0), Start(0))
    decide(Add(4))
    with pytest.raises(ValueError, match="negative"):
        decide(Add(-1))
    decide(Add(5))
    recorder.close()
    (life,), _ = find(tmp_path)
    played = play(life, lambda _: codec)
    assert (played.events, played.passed, played.difference) == (3, 0, None)
    assert b"Add\x04" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


# --- versions ---


class Newer(CoreRecord, frozen=True, tag="Sum"):
    total: int
    parts: list[int] = []


class Other(CoreRecord, frozen=True, tag="Sum"):
    count: int


def later(kind: type[CoreRecord], *, changed: bool = False) -> Codec[Add, Any]:
    """Of a version in which sums are `kind`; `changed`: and have something to say by that."""

    class Later(Adder):
        def handle(self, event: Add) -> list[Any]:
            (old,) = super().handle(event)
            return [kind(old.total, [event.number])] if changed else [kind(old.total)]

    codec = Codec("adder", Add, kind, Start, lambda start: Later(start.total))
    here = f"{__name__}."
    codec.fields = {
        n.replace(f"{here}{kind.__name__}", f"{here}Sum"): f for n, f in codec.fields.items()
    }
    return codec


def test_fields_that_were_appended_since_have_their_defaults(tmp_path: Path):
    life = recorded(tmp_path, 1, 2)
    played = play(life, lambda _: later(Newer))
    assert (played.events, played.difference) == (2, None)
    difference = play(life, lambda _: later(Newer, changed=True)).difference
    assert difference is not None
    assert (difference.expected, difference.got) == ([["Sum", 1]], [["Sum", 1, [1]]])


def test_fields_that_are_others_are_refused_by_name(tmp_path: Path):
    life = recorded(tmp_path, 1)
    with pytest.raises(JournalError, match=r"Sum\(total\); in this version it is .*Sum\(count\)"):
        later(Other).check(life.segments[-1][1])


def test_a_class_that_is_no_more_is_refused_by_name(tmp_path: Path):
    life = recorded(tmp_path, 1)
    codec = Codec("adder", Add, Newer, Start, lambda start: Adder(start.total))
    with pytest.raises(JournalError, match=r"recorded with .*\.Sum, which this version does not"):
        codec.check(life.segments[-1][1])

"""A recorder keeps what it is given, within its bounds, and never hinders who gives it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus.core import CoreRecord
from bus.envelope import Header, Kind, encode
from bus.identity import Identity
from bus.journal import format as form
from bus.journal import recorder as recording
from bus.journal import writer as writing
from bus.journal.codec import Codec
from bus.journal.lives import find
from bus.journal.reader import Damage, Numbered, Segment
from bus.journal.recorder import Plan, Recorder
from bus.journal.replay import play as replay
from bus.wire import Wire
from schemas.config import Config
from schemas.generate import Candidate, Delta, Generate, Sampling, Step
from schemas.message import Message, tag_of

MB = 1 << 20
GUARD = 20.0
NONE = b"\x90"
"""What is not recorded: no effects."""


class Add(CoreRecord, frozen=True):
    number: int
    padding: bytes = b""


class Sum(CoreRecord, frozen=True):
    total: int


class Fail(CoreRecord, frozen=True):
    padding: bytes = b""


class Start(msgspec.Struct, frozen=True):
    total: int


class Adder:
    """A core that adds; it keeps `ballast` bytes, to have a state of that size."""

    def __init__(self, total: int = 0, ballast: int = 0) -> None:
        self.total = total
        self.ballast = ballast

    def handle(self, event: Add | Fail) -> list[Sum]:
        if isinstance(event, Fail):
            raise ValueError("told to fail")  # noqa: TRY004  any error will do
        self.total += event.number
        return [Sum(self.total)] if event.number else []

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode((self.total, bytes(self.ballast)))

    def restore(self, data: bytes) -> None:
        self.total, _ = msgspec.msgpack.decode(data, type=tuple[int, bytes])


CODEC = Codec("adder", Add | Fail, Sum, Start, lambda start: Adder(start.total))


def make(tmp_path: Path, **plan: Any) -> Recorder:
    recorder = Recorder(Identity("adder/0", 7), lambda _text: None)
    recorder.start(Plan(tmp_path, **{"limit": 64 * MB, **plan}))
    return recorder


def read(path: Path) -> tuple[list[Any], list[Damage], list[form.Header]]:
    (life,), errors = find(path)
    assert not errors
    found = list(life)
    numbered = [one for one in found if isinstance(one, Numbered)]
    numbers = [one.number for one in numbered]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    headers = [one.header for one in found if isinstance(one, Segment)]
    return (
        [one.record for one in numbered],
        [one for one in found if isinstance(one, Damage)],
        headers,
    )


def play(path: Path) -> int:
    """Give what was recorded to a new core, from the first snapshot on; returns how many events."""
    (life,), _ = find(path)
    # Before the actor has started there is no core: its first segment says so.
    header = next(header for _, header in life.segments if header.core)
    core, parts, played, awaited = CODEC.core(header), list[bytes](), 0, b""
    for one in life:
        record = one.record if isinstance(one, Numbered) else None
        if isinstance(record, form.Snapshot):
            parts.append(record.data)
            if len(parts) == record.parts:
                core.restore(b"".join(parts))
                parts.clear()
        elif isinstance(record, form.Note):
            awaited = b""
        elif isinstance(record, form.Event):
            assert awaited in (b"", NONE)
            try:
                awaited = CODEC.encode_effects(core.handle(CODEC.decode_event(record.event)))
                played += 1
            except ValueError:
                awaited = b""
        elif isinstance(record, form.Effects):
            assert bytes(record.effects) == awaited != NONE
            awaited = b""
    return played


def test_a_core_can_be_played_again(tmp_path: Path) -> None:
    recorder = make(tmp_path)
    decide = recorder.of_core(CODEC, Adder(5), Start(5))
    assert [decide(Add(n)) for n in range(4)] == [[], [Sum(6)], [Sum(8)], [Sum(11)]]
    recorder.close()
    assert play(tmp_path) == 4
    records, damage, headers = read(tmp_path)
    assert not damage
    assert headers[-1].core == "adder"
    assert headers[-1].fields == CODEC.fields
    assert [type(record).__name__ for record in records] == [
        "Snapshot",
        "Event",  # without effects
        *["Event", "Effects"] * 3,
    ]


def test_recording_can_begin_at_any_time(tmp_path: Path) -> None:
    recorder = Recorder(Identity("adder/0", 7), lambda _text: None)
    decide = recorder.of_core(CODEC, Adder(), Start(0))
    decide(Add(3))
    assert recorder.records == 0
    recorder.start(Plan(tmp_path, 64 * MB))
    decide(Add(4))
    recorder.stop()
    decide(Add(5))
    recorder.close()
    assert play(tmp_path) == 1
    records, _, _ = read(tmp_path)
    assert isinstance(records[0], form.Snapshot)
    assert msgspec.msgpack.decode(records[0].data)[0] == 3


def test_an_event_that_raises_is_there_and_a_new_segment_follows(tmp_path: Path) -> None:
    recorder = make(tmp_path)
    decide = recorder.of_core(CODEC, Adder(), Start(0))
    with pytest.raises(ValueError, match="told to fail"):
        decide(Fail())
    decide(Add(1))
    recorder.close()
    records, _, headers = read(tmp_path)
    kinds = [type(record).__name__ for record in records]
    assert kinds == ["Snapshot", "Event", "Note", "Snapshot", "Event", "Effects"]
    assert records[2].name == "raised"
    assert [header.number for header in headers] == [1, 2, 3]
    assert play(tmp_path) == 1


def test_the_event_in_which_a_core_hangs_is_on_disk_while_it_hangs(tmp_path: Path) -> None:
    """The thread does not need the loop."""
    found: list[Any] = []

    class Hangs(Adder):
        def handle(self, event: Add | Fail) -> list[Sum]:
            waiting = threading.Event()
            for _ in range(int(GUARD * 100)):
                for path in tmp_path.iterdir():
                    with contextlib.suppress(form.JournalError), Segment(path) as segment:
                        records = [one.record for one in segment if isinstance(one, Numbered)]
                        found[:] = [one for one in records if isinstance(one, form.Event)]
                if found:
                    return []
                waiting.wait(0.01)
            return []

    recorder = make(tmp_path)
    recorder.of_core(CODEC, Hangs(), Start(0))(Add(41))
    recorder.close()
    assert [CODEC.decode_event(record.event) for record in found] == [Add(41)]


def test_what_an_earlier_life_left_torn_is_cut_and_said(tmp_path: Path) -> None:
    first = Recorder(Identity("adder/0", 6), lambda _text: None)
    first.start(Plan(tmp_path, 64 * MB))
    first.of_core(CODEC, Adder(), Start(0))(Add(1))
    first.close()
    path = max(tmp_path.iterdir())
    whole = path.stat().st_size
    with Segment(path) as segment:
        end = segment.blocks()[-1].offset + 1
    os.truncate(path, end)
    said: list[str] = []
    second = Recorder(Identity("adder/0", 7), said.append)
    second.start(Plan(tmp_path, 64 * MB))
    second.close()
    lives, errors = find(tmp_path)
    assert not errors
    assert path.stat().st_size < end < whole
    notes: list[Any] = [one.record for one in lives[1] if isinstance(one, Numbered)]
    assert [(note.name, "1 bytes were cut" in note.text) for note in notes] == [("torn", True)]
    assert len(said) == 1


# --- bounds ---


def test_only_the_newest_segments_are_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writing, "FLUSH", 0.001)
    recorder = make(tmp_path, limit=4 * MB)
    decide = recorder.of_core(CODEC, Adder(), Start(0))
    for _ in range(400):
        decide(Add(1, os.urandom(100_000)))
        while recorder._waiting() > MB:
            threading.Event().wait(0.001)
    recorder.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5 * MB
    records, damage, headers = read(tmp_path)
    assert not damage
    assert headers[0].number > 1
    assert isinstance(records[0], form.Snapshot)
    assert play(tmp_path) > 10


def test_of_segments_of_one_moment_the_first_goes(tmp_path: Path) -> None:
    for number in range(1, 7):
        path = tmp_path / f"5-{number:06d}.cbj"
        path.write_bytes(bytes((7 - number) * MB))
        os.utime(path, (1e9, 1e9))
    make(tmp_path, limit=8 * MB).close()
    left = sorted(path.name for path in tmp_path.glob("5-*"))
    assert left == ["5-000004.cbj", "5-000005.cbj", "5-000006.cbj"]


def test_a_segment_ends_with_its_age(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writing, "AGE", 0.0)
    recorder = make(tmp_path)
    decide = recorder.of_core(CODEC, Adder(), Start(0))
    until = time.monotonic() + GUARD
    while recorder._number < 4 and time.monotonic() < until:
        decide(Add(1))
        threading.Event().wait(0.001)
    recorder.close()
    _, damage, headers = read(tmp_path)
    assert not damage
    assert len(headers) >= 4
    assert play(tmp_path) > 3


def test_what_the_disk_cannot_keep_up_with_is_dropped_counted_and_marked(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(recording, "MAX_PENDING", 100_000)
    stuck = threading.Event()
    real = writing.Writer._write

    def slow(self, records, size):
        stuck.wait(GUARD)
        real(self, records, size)

    monkeypatch.setattr(writing.Writer, "_write", slow)
    recorder = make(tmp_path)
    core = Adder()
    decide = recorder.of_core(CODEC, core, Start(0))
    for _ in range(1000):
        decide(Add(1, bytes(1000)))
    assert recorder.dropped > 1000
    assert recorder.queue().dropped == recorder.dropped
    before = recorder.dropped
    stuck.set()
    while recorder._waiting():
        threading.Event().wait(0.001)
    for _ in range(50):
        decide(Add(1))
    recorder.close()
    assert recorder.dropped == before
    assert core.total == 1050
    records, _, _ = read(tmp_path)
    notes = [record for record in records if isinstance(record, form.Note)]
    assert [(note.name, note.count) for note in notes] == [("dropped", before)]
    assert isinstance(records[records.index(notes[0]) + 1], form.Snapshot)
    play(tmp_path)
    (life,), _ = find(tmp_path)
    played = replay(life, lambda _header: CODEC)
    there = sum(isinstance(record, form.Event) for record in records)
    assert (played.events, played.passed, played.difference) == (there, 0, None)


def test_a_record_that_is_too_long_is_left_out_and_said(tmp_path: Path) -> None:
    recorder = make(tmp_path)
    decide = recorder.of_core(CODEC, Adder(), Start(0))
    decide(Add(1, bytes(form.MAX_RECORD)))
    decide(Add(2))
    recorder.close()
    records, _, _ = read(tmp_path)
    notes = [record for record in records if isinstance(record, form.Note)]
    assert [note.name for note in notes] == ["left_out"]
    events = [record for record in records if isinstance(record, form.Event)]
    assert [CODEC.decode_event(event.event) for event in events] == [Add(2)]


def test_what_msgpack_cannot_hold_does_not_reach_the_actor(tmp_path: Path) -> None:
    recorder = make(tmp_path)
    decide = recorder.of_core(CODEC, Adder(), Start(0))
    assert decide(Add(2**70)) == [Sum(2**70)]
    recorder.close()
    records, _, _ = read(tmp_path)
    assert {record.name for record in records if isinstance(record, form.Note)} == {"left_out"}


def test_a_full_disk_ends_the_recording_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    said: list[str] = []
    recorder = Recorder(Identity("adder/0", 7), said.append)
    recorder.start(Plan(tmp_path, 64 * MB))
    core = Adder()
    decide = recorder.of_core(CODEC, core, Start(0))
    decide(Add(1))
    while recorder._waiting():
        threading.Event().wait(0.001)

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    decide(Add(1))
    while recorder.on:
        decide(Add(1))
        threading.Event().wait(0.001)
    monkeypatch.undo()
    total = core.total
    decide(Add(1))
    assert core.total == total + 1
    assert "No space left" in recorder.news()
    assert recorder.news() == ""
    assert len(said) == 1
    recorder.close()
    _, damage, _ = read(tmp_path)
    assert not damage
    assert play(tmp_path) == 1


def test_a_directory_that_cannot_be_made_is_an_error_of_who_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = make(tmp_path / "here")
    plan = recorder.plan
    with pytest.raises(OSError, match="file"):
        recorder.start(Plan(tmp_path / "file", 64 * MB))
    assert recorder.on
    assert recorder.plan is plan
    recorder.close()


def test_a_slow_snapshot_is_not_taken_often(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(recording, "QUICK", 0.0)
    monkeypatch.setattr(recording, "PATIENCE", 1e9)
    recorder = make(tmp_path)
    decide = recorder.of_core(CODEC, Adder(ballast=MB + 1), Start(0))
    with pytest.raises(ValueError, match="fail"):
        decide(Fail())
    decide(Add(1))
    recorder.close()
    records, _, _ = read(tmp_path)
    snapshots = [record for record in records if isinstance(record, form.Snapshot)]
    assert [(one.part, one.parts) for one in snapshots] == [(0, 0), (1, 2)]
    notes = [record.name for record in records if isinstance(record, form.Note)]
    assert notes == ["raised", "no_snapshot"]


def even(event: Add | Fail) -> Any:
    return Add(event.number, b"") if isinstance(event, Add) and event.number % 2 == 0 else None


def crossed_out(event: Add | Fail) -> Any:
    return msgspec.structs.replace(event, padding=b"x" * len(event.padding))


BRIEF = Codec(
    "adder",
    Add | Fail,
    Sum,
    Start,
    lambda start: Adder(start.total),
    redact_event=crossed_out,
    brief_event=even,
    brief_effects=lambda effects: [one for one in effects if one.total > 2],
)
"""Of this one the flight recorder takes even numbers."""


def test_the_flight_recorder_takes_what_the_core_calls_brief(tmp_path: Path) -> None:
    for flight in (True, False):
        recorder = make(tmp_path / str(flight), flight=flight)
        decide = recorder.of_core(BRIEF, Adder(), Start(0))
        assert [decide(Add(n, b"long")) for n in (2, 1, 4)] == [[Sum(2)], [Sum(3)], [Sum(7)]]
        recorder.close()
        records, _, _ = read(tmp_path / str(flight))
        events = [r.event for r in records if isinstance(r, form.Event)]
        effects = [CODEC.decode_effects(r.effects) for r in records if isinstance(r, form.Effects)]
        if flight:
            assert [CODEC.decode_event(event) for event in events] == [Add(2), Add(4)]
            assert effects == [[Sum(7)]]
        else:
            assert [CODEC.decode_event(event) for event in events] == [
                Add(n, b"xxxx") for n in (2, 1, 4)
            ]
            assert effects == [[Sum(2)], [Sum(3)], [Sum(7)]]


def test_the_flight_recorder_has_what_a_core_raises_at(tmp_path: Path) -> None:
    """Such an event it leaves out as long as all is well."""
    recorder = make(tmp_path, flight=True)
    decide = recorder.of_core(BRIEF, Adder(), Start(0))
    decide(Add(2))
    with pytest.raises(ValueError, match="fail"):
        decide(Fail(b"long"))
    decide(Add(4))
    recorder.close()
    records, _, _ = read(tmp_path)
    kinds = [type(one) for one in records]
    assert kinds == [
        *(form.Snapshot, form.Event, form.Event, form.Note),
        *(form.Snapshot, form.Event, form.Effects),
    ]
    assert (CODEC.decode_event(records[2].event), records[3].name) == (Fail(b"xxxx"), "raised")
    (life,), _ = find(tmp_path)
    played = replay(life, lambda _header: BRIEF)
    assert (played.events, played.difference) == (3, None)


def test_what_a_core_raised_is_what_its_actor_hears(tmp_path: Path) -> None:
    """Even where nobody can say at what."""

    def lost(_event: Add | Fail) -> Any:
        raise RuntimeError("no such thing")

    codec = Codec(
        "adder",
        Add | Fail,
        Sum,
        Start,
        lambda start: Adder(start.total),
        redact_event=lost,
        brief_event=even,
    )
    recorder = make(tmp_path, flight=True)
    decide = recorder.of_core(codec, Adder(), Start(0))
    decide(Add(0))  # without effects: the next note may not be taken for its
    with pytest.raises(ValueError, match="fail"):
        decide(Fail())
    recorder.close()
    records, _, _ = read(tmp_path)
    assert [one.name for one in records if isinstance(one, form.Note)] == ["left_out", "raised"]
    (life,), _ = find(tmp_path)
    assert replay(life, lambda _header: codec).difference is None


# --- messages ---


GENERATE = Generate(
    "r1",
    "m",
    Sampling(stop=["secret"], stop_token_ids=[4242], logit_bias={4243: 1.0}),
    [4244, 4245],
    "secret",
    salt="secret",
    resumed=[4246],
)
STEP = Step(
    [
        Delta(1, [4247]),
        Delta(2, [4248, 4249], "stop", "secret", [[Candidate(4250, -1.0, 1)]], prompt_tokens=2),
        Delta(3, [], None, None, None, None, None, None, "secret"),
    ]
)


def record_message(recorder: Recorder, message: Message, kind: Kind = Kind.ASK) -> None:
    header = Header(256, kind, tag_of(type(message)), "gateway/0", 5, 7, 1, 9)
    frames = encode(header, message)
    recorder.received(header, frames, message)
    recorder.sent("engine/0", header, frames, message)


@pytest.mark.parametrize("message", [GENERATE, STEP])
def test_no_token_and_no_text_is_kept_unless_wanted(tmp_path: Path, message: Message) -> None:
    for text in (False, True):
        recorder = make(tmp_path / str(text), text=text)
        record_message(recorder, message)
        recorder.close()
        records, _, (header,) = read(tmp_path / str(text))
        assert header.redacted is not text
        for record in records:
            body: Any = msgspec.msgpack.decode(record.body, type=type(message))
            assert (body == message) is text
            found = str(body)
            assert ("secret" in found) is text
            assert ("424" in found or "4250" in found) is text
            assert record.size == len(msgspec.msgpack.encode(message))
        if not text and isinstance(message, Step):
            assert [len(delta.token_ids) for delta in body.deltas] == [1, 2, 0]
            assert [delta.stream for delta in body.deltas] == [1, 2, 3]
            assert body.deltas[1].finish_reason == "stop"


def test_options_are_never_kept(tmp_path: Path) -> None:
    recorder = make(tmp_path, text=True)
    record_message(recorder, Config(3, {"hf_token": "secret"}, {"api_key": "secret"}))
    recorder.close()
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    records, _, _ = read(tmp_path)
    assert msgspec.msgpack.decode(records[0].body, type=Config) == Config(3, {}, {})


def test_the_flight_recorder_leaves_out_items_of_streams(tmp_path: Path) -> None:
    recorder = make(tmp_path, flight=True)
    wire = Wire(Identity("engine/0", 7), recorder)
    wire.frames(Kind.ITEM, STEP, "gateway/0")
    record_message(recorder, GENERATE, Kind.STREAM)
    recorder.close()
    records, _, (header,) = read(tmp_path)
    assert header.flight
    assert [type(record).__name__ for record in records] == ["Received", "Sent"]
    # Of a request the sender has the rest of the body: once is enough.
    came, went = (msgspec.msgpack.decode(record.body, type=Generate) for record in records)
    assert came == Generate(GENERATE.request_id, GENERATE.model, Sampling())
    assert len(went.token_ids) == len(GENERATE.token_ids)


def test_what_is_left_out_changes_with_the_recording(tmp_path: Path) -> None:
    recorder = make(tmp_path / "0", flight=True)
    for number, flight in enumerate((True, False, True)):
        recorder.start(Plan(tmp_path / str(number), 64 * MB, flight))
        assert recorder.items is not flight
        record_message(recorder, GENERATE, Kind.STREAM)
    recorder.close()
    for number, lengths in enumerate(([0, 2], [2, 2], [0, 2])):
        records, _, _ = read(tmp_path / str(number))
        bodies = [msgspec.msgpack.decode(record.body, type=Generate) for record in records]
        assert [len(body.token_ids) for body in bodies] == lengths


def test_an_event_has_its_topic_and_a_cancel_no_body(tmp_path: Path) -> None:
    recorder = make(tmp_path)
    header = Header(256, Kind.CANCEL, "", "gateway/0", 5, 7, 1, 9)
    recorder.received(header, encode(header, None), None)
    header = Header(256, Kind.EVENT, "Step", "gateway/0", 5, 7, 1)
    recorder.received(header, encode(header, STEP, b"kv", [b"123"]), STEP)
    recorder.close()
    (first, second), _, _ = read(tmp_path)
    assert first.body == form.NIL
    assert (second.topic, second.attached) == ("kv", 3)
    assert msgspec.msgpack.decode(second.header, type=Header) == header


def test_nothing_of_it_stays_when_it_is_closed(tmp_path: Path) -> None:
    recorder = make(tmp_path)
    recorder.start(Plan(tmp_path / "other", 64 * MB))
    recorder.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "journal"]

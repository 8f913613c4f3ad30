"""What an actor says to the conversation *journal*."""

from __future__ import annotations

from pathlib import Path

from bus.actor import Incoming
from bus.envelope import Header, Kind
from bus.identity import Identity
from bus.journal.control import LEAST, record_as_told
from bus.journal.recorder import Plan, Recorder
from schemas.journal import AskRecording, Recording, StartRecording, StopRecording
from schemas.message import Message, tag_of
from schemas.refusal import Refusal

MB = 1 << 20


def told(recorder: Recorder | None, message: Message) -> Message:
    answers: list[Message] = []
    header = Header(256, Kind.ASK, tag_of(type(message)), "visitor/0", 1, 0, 1, 1)
    incoming = Incoming(
        b"v", header, message, (), None, lambda _i, _k, answer: answers.append(answer)
    )
    assert isinstance(message, StartRecording | StopRecording | AskRecording)
    record_as_told(incoming, message, recorder)
    (answer,) = answers
    return answer


def make(always: Plan | None) -> Recorder:
    return Recorder(Identity("router/0", 7), lambda _text: None, always=always)


def test_it_starts_and_goes_back_to_what_is_always_recorded(tmp_path: Path) -> None:
    flight = Plan(tmp_path / "flight", 16 * MB, flight=True)
    recorder = make(flight)
    recorder.go_back()
    here = str(tmp_path / "here")
    started = told(recorder, StartRecording(here, 64 * MB, text=True))
    assert isinstance(started, Recording)
    assert (started.on, started.flight, started.text) == (True, False, True)
    assert (started.directory, started.limit, started.dropped) == (here, 64 * MB, 0)
    stopped = told(recorder, StopRecording())
    assert isinstance(stopped, Recording)
    assert (stopped.on, stopped.flight, stopped.directory) == (True, True, str(flight.directory))
    number = recorder._number
    told(recorder, StopRecording())  # again: it goes on as it is
    assert recorder._number == number
    recorder.close()
    assert len(list((tmp_path / "here").iterdir())) == 1


def test_it_records_as_the_flight_recorder_does_where_it_is_told_to(tmp_path: Path) -> None:
    recorder = make(None)
    started = told(recorder, StartRecording(str(tmp_path), 64 * MB, flight=True))
    assert isinstance(started, Recording)
    assert (started.on, started.flight, started.text) == (True, True, False)
    recorder.close()


def test_where_nothing_is_always_recorded_it_stops(tmp_path: Path) -> None:
    recorder = make(None)
    before = told(recorder, AskRecording())
    assert before == Recording(False, False, False, "", 0, 0, 0, 0)
    told(recorder, StartRecording(str(tmp_path), MB))
    stopped = told(recorder, StopRecording())
    assert isinstance(stopped, Recording)
    assert not stopped.on
    recorder.close()


def test_what_cannot_be_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = make(None)
    wrong = told(recorder, StartRecording(str(tmp_path / "file/below"), MB))
    assert isinstance(wrong, Refusal)
    assert (wrong.code, wrong.param) == ("invalid", "directory")
    assert "file/below: Not a directory; name a directory" in wrong.message
    small = told(recorder, StartRecording(str(tmp_path), LEAST - 1))
    assert isinstance(small, Refusal)
    assert (small.code, small.param) == ("invalid", "limit")
    assert not recorder.on
    nobody = told(None, AskRecording())
    assert isinstance(nobody, Refusal)
    assert nobody.code == "unsupported"

"""What a journal has of an engine: whatever is left out, the core decides the same without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.engine.core import Asked, Draining, Event, Loaded, PeerLost, Send, Stepped, Withdrawn
from actors.engine.journal import CODEC, Settings
from bus.envelope import Header, Kind, encode
from bus.identity import Identity
from bus.journal.lives import find
from bus.journal.reader import Numbered
from bus.journal.recorder import Plan, Recorder
from bus.journal.replay import play
from bus.journal.trail import Trail
from bus.journal.view import rows
from schemas.generate import Delta, Generate, Sampling, Step

PEERS = st.sampled_from(["gateway/0#1", "gateway/1#1"])
STREAMS = st.integers(1, 30)
TOKENS = st.lists(st.integers(10_000, 90_000), max_size=3)
ASKED = st.builds(
    Asked,
    PEERS,
    STREAMS,
    st.builds(
        Generate,
        st.just("r"),
        st.just("m"),
        st.just(Sampling(stop=["secret"])),
        TOKENS,
        alone=st.booleans(),
    ),
)
DELTA = st.builds(
    Delta,
    STREAMS,
    TOKENS,
    st.sampled_from([None, None, "stop", "length"]),
    st.sampled_from([None, "secret", 12_345]),
    prompt_tokens=st.none() | st.just(3),
    text=st.none() | st.just("secret"),
)
STEPPED = st.lists(st.tuples(st.integers(1, 8), DELTA), max_size=5).map(Stepped)
EVENTS = st.lists(
    ASKED
    | STEPPED
    | STEPPED
    | st.builds(Withdrawn, PEERS, STREAMS)
    | st.builds(PeerLost, PEERS)
    | st.builds(Draining),
    max_size=30,
)


def numbered(events: list[Event]) -> list[Event]:
    """No gateway uses the number of a stream twice."""
    return [
        msgspec.structs.replace(event, stream=number) if isinstance(event, Asked) else event
        for number, event in enumerate(events, 1)
    ]


def lived(events: list[Event], *, flight: bool) -> list[tuple[bytes, bytes]]:
    """Events and effects as a redacted journal has them."""
    core = CODEC._make(Settings())
    found = []
    for event in [Loaded(["m"], 1), *numbered(events)]:
        shown: Any = CODEC.brief_event(event) if flight else CODEC.redact_event(event)
        effects = core.handle(event)
        if shown is not None:
            encoded = CODEC.encode_effects(effects, redacted=True, flight=flight)
            found.append((CODEC.encode_event(shown), encoded))
    return found


TWO_GATEWAYS: list[Event] = [
    *(
        Asked(peer, number, Generate("r", "m", Sampling(), []))
        for number, peer in enumerate(["a#1", "b#1", "a#1"], 1)
    ),
    Stepped([(1, Delta(1, [5])), (2, Delta(2, [5], "stop")), (3, Delta(3, [5], "stop"))]),
]
"""Sent to a first, for a delta that ends nothing."""


@given(EVENTS, st.booleans())
@example(events=TWO_GATEWAYS, flight=True)
def test_a_redacted_journal_plays_the_same(events: list[Event], flight: bool) -> None:
    core = CODEC._make(Settings())
    for event, effects in lived(events, flight=flight):
        again = core.handle(CODEC.decode_event(event))
        assert CODEC.encode_effects(again, redacted=True, flight=flight) == effects
        assert b"secret" not in event + effects
        shown = str((CODEC.decode_event(event), CODEC.decode_effects(effects)))
        assert not any(f"{number}" in shown for number in (12_345, *_tokens(events)))


def _tokens(events: list[Event]) -> list[int]:
    asked = [t for e in events if isinstance(e, Asked) for t in e.request.token_ids]
    return [
        *asked,
        *(t for e in events if isinstance(e, Stepped) for _, d in e.deltas for t in d.token_ids),
    ]


def test_what_msgpack_cannot_hold_is_for_the_recorder_to_leave_out():
    odd = Delta(1, [5], "stop", transfer={"there is no such thing on a wire": object()})
    shown = [
        CODEC.redact_event(Stepped([(1, odd)])),
        CODEC.redact_effect(Send("g", Step([odd]), [])),
    ]
    for one in shown:
        with pytest.raises(TypeError):
            msgspec.msgpack.encode(one)


def test_a_request_of_another_encoder_plays_the_same(tmp_path: Path) -> None:
    """JavaScript writes 1.0 as 1; what is recorded of the request is made from what came."""
    request = Generate("r", "m", Sampling(presence_penalty=1.0), [5, 6])
    body = msgspec.msgpack.encode(request).replace(msgspec.msgpack.encode(1.0), b"\x01")
    came = msgspec.msgpack.decode(body, type=Generate)
    assert len(body) < len(msgspec.msgpack.encode(came))
    recorder = Recorder(Identity("engine/0", 7), lambda _text: None)
    recorder.start(Plan(tmp_path, 64 << 20))
    decide = recorder.of_core(CODEC, CODEC._make(Settings()), Settings())
    decide(Loaded(["m"], 1))
    header = Header(256, Kind.ASK, "Generate", "gateway/0", 1, 0, 1, 1)
    recorder.received(header, [b"", b"\xc0", body], came)
    decide(Asked("gateway/0#1", 1, came))
    recorder.close()
    (life,), _ = find(tmp_path)
    played = play(life, lambda _header: CODEC)
    assert (played.events, played.difference) == (2, None)


def whole(one: Any) -> Any:
    """An event or an effect as flight recorders once had it: with the whole request and deltas."""
    if isinstance(one, Stepped):
        ends = [pair for pair in one.deltas if pair[1].finish_reason is not None]
        return CODEC.redact_event(Stepped(ends)) if ends else None
    if isinstance(one, Send):
        deltas = [delta for delta in one.step.deltas if delta.finish_reason is not None]
        return CODEC.redact_effect(msgspec.structs.replace(one, step=Step(deltas)))
    return CODEC.redact_event(one) if isinstance(one, Asked) else CODEC.redact_effect(one)


def test_a_flight_recorder_of_before_plays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_whole(effects: list[Any]) -> list[Any]:
        return [whole(one) for one in effects if not isinstance(one, Send) or one.ended]

    request = Generate("r", "m", Sampling(max_tokens=5), [5, 6])
    recorder = Recorder(Identity("engine/0", 7), lambda _text: None)
    with monkeypatch.context() as before:
        before.setattr(CODEC, "brief_event", whole)
        before.setattr(CODEC, "brief_effects", all_whole)
        recorder.start(Plan(tmp_path, 64 << 20, flight=True))
        decide = recorder.of_core(CODEC, CODEC._make(Settings()), Settings())
        decide(Loaded(["m"], 1))
        decide(Asked("gateway/0#1", 1, request))
        decide(Stepped([(1, Delta(1, [7]))]))
        decide(Stepped([(1, Delta(1, [7], "stop", prompt_tokens=2))]))
        for event in numbered(TWO_GATEWAYS):
            decide(shifted(event))
        recorder.close()
    (life,), _ = find(tmp_path)
    played = play(life, lambda _header: CODEC)
    assert (played.events, played.difference) == (7, None)


def shifted(event: Event) -> Event:
    """The keys of a core that has had one request before."""
    if isinstance(event, Stepped):
        return Stepped([(key + 1, delta) for key, delta in event.deltas])
    return event


def test_an_end_has_the_fields_of_a_delta() -> None:
    delta = Delta(3, [5, 6], "stop", "word", None, None, 7, 8, "text", "error", {"block_ids": [1]})
    (_, ((_, end),)) = CODEC.brief_event(Stepped([(1, delta)]))
    assert len(end) == len(Delta.__struct_fields__)
    again = msgspec.convert(end, Delta)
    changed = msgspec.structs.replace(delta, token_ids=[0, 0], stop_reason=None, text=None)
    assert again == changed


def test_a_request_is_found_in_what_the_flight_recorder_has(tmp_path: Path) -> None:
    recorder = Recorder(Identity("engine/0", 7), lambda _text: None)
    recorder.start(Plan(tmp_path, 64 << 20, flight=True))
    decide = recorder.of_core(CODEC, CODEC._make(Settings()), Settings())
    decide(Loaded(["m"], 1))
    for number, name in enumerate(["cmpl-41f2", "cmpl-41f3"], 1):
        request = Generate(name, "m", Sampling(), [5, 6], rank=0)
        header = Header(256, Kind.STREAM, "Generate", "gateway/0", 1, 0, number, number)
        recorder.received(header, encode(header, request), request)
        decide(Asked("gateway/0#1", number, request))
    recorder.close()
    (life,), _ = find(tmp_path)
    trail = Trail("cmpl-41f2")
    found = [(row.what, row.name) for row in rows(life) if trail.takes(row)]
    assert found == [("received", "Generate"), ("event", "Asked"), ("effects", "Submit")]


def test_the_flight_recorder_has_no_text_of_requests_that_wait(tmp_path: Path) -> None:
    """Not in a snapshot either, nor where text is kept of what goes out."""
    core = CODEC._make(Settings())
    recorder = Recorder(Identity("engine/0", 7), lambda _text: None)
    decide = recorder.of_core(CODEC, core, Settings())
    decide(Loaded(["m"], 1))
    for number in (1, 2):
        request = Generate("r", "m", Sampling(), [5], "secret", alone=True)
        decide(Asked("gateway/0#1", number, request))
    assert b"secret" in core.snapshot()
    recorder.start(Plan(tmp_path, 64 << 20, flight=True, text=True))
    decide(Stepped([(1, Delta(1, [7], "stop"))]))
    recorder.close()
    (life,), _ = find(tmp_path)
    written = [msgspec.msgpack.encode(one.record) for one in life if isinstance(one, Numbered)]
    assert b"secret" not in b"".join(written)
    played = play(life, lambda _header: CODEC)
    assert (played.events, played.difference) == (1, None)

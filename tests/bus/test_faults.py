"""One test per malformed frame, over a real socket, against an actor that must live on."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import structlog

from bus import envelope
from bus.envelope import VERSION, Header, Kind
from bus.runtime import Runtime
from schemas.life import Describe, Description
from schemas.refusal import Refusal
from tests.bus.parties import (
    GENERATE,
    PLACE,
    PLACED,
    Scripted,
    Stage,
    Stranger,
    placed,
    run,
    stage,
    until,
)

pack = msgspec.msgpack.encode


async def victim(on: Stage) -> tuple[Runtime, Stranger]:
    on.config()
    runtime = await on.ready("engine/0", Scripted(placed))
    stranger = on.stranger(runtime.entry().mailbox)
    # The first message: a gap can be seen from here on.
    stranger.say(Kind.ASK, PLACE, 1)
    await stranger.hear()
    return runtime, stranger


async def lives_on(stranger: Stranger, runtime: Runtime) -> None:
    """It answers the next ask, and what was refused does not count as lost as well."""
    stranger.say(Kind.ASK, PLACE, 1000)
    header, answer = await stranger.hear()
    assert (header.kind, header.correlation, answer) == (Kind.ANSWER, 1000, PLACED)
    assert runtime.counters["requests_lost"] == 0


Make = Callable[[Stranger], list[bytes]]


def ask(stranger: Stranger, body: bytes, tag: str = "Place", **changes: int) -> list[bytes]:
    """An ask with this body, under correlation 7."""
    return [b"", pack(stranger.header(Kind.ASK, tag, 7, **changes)), body]


WITHOUT_ANSWER: dict[str, tuple[Make, str]] = {
    "no frame at all": (lambda s: [b""], "bad_frame"),
    "two frames": (lambda s: [b"", b""], "bad_frame"),
    "too many frames": (lambda s: [b""] * 65, "bad_frame"),
    "a header that is no msgpack": (lambda s: [b"", b"\xc1\xc1", b""], "bad_frame"),
    "an empty header": (lambda s: [b"", b"", b""], "bad_frame"),
    "a header of wrong types": (lambda s: [b"", pack(["x"] * 10), b""], "bad_frame"),
    "a header that is too short": (lambda s: [b"", pack([VERSION, 1]), b""], "bad_frame"),
    "a sender that is no text": (
        lambda s: [b"", b"\x97\xcd\x01\x00\x01\xa1x\xa1\xff\x01\x00\x01", b""],
        "bad_frame",
    ),
    "a header that is too large": (
        lambda s: [b"", pack(Header(VERSION, 1, "x" * 5000, "s", 1, 0, 1)), b""],
        "too_large",
    ),
}

REFUSED: dict[str, tuple[Make, str, str]] = {
    "an unknown tag": (
        lambda s: ask(s, pack(["Nonsense"]), tag="Nonsense"),
        "unknown_tag",
        "no message is called 'Nonsense'",
    ),
    "a body that is no msgpack": (lambda s: ask(s, b"\xc1"), "bad_body", "Place: "),
    "an empty body": (lambda s: ask(s, b""), "bad_body", "Place: Input data was truncated"),
    "a truncated body": (lambda s: ask(s, pack(PLACE)[:-1]), "bad_body", "Place: "),
    "a body of another message": (lambda s: ask(s, pack(GENERATE)), "bad_body", "Place: "),
    "a body of wrong types": (
        lambda s: ask(s, pack(["Place", "r", "m", "many", 1])),
        "bad_body",
        "Place: Expected `int`, got `str` - at `$[3]`",
    ),
    "a body without its last fields": (
        lambda s: ask(s, pack(["Place", "r"])),
        "bad_body",
        "Place: ",
    ),
    "text that is no text": (
        lambda s: ask(s, b"\x95\xa5Place\xa1\xff\xa1m\x01\x01"),
        "bad_body",
        "Place: ",
    ),
    "a body that promises more than it has": (
        lambda s: ask(s, b"\x96\xa5Place\xa1r\xa1m\x01\x01\xc6\xff\xff\xff\xff"),
        "bad_body",
        "Place: Input data was truncated",
    ),
    "a body nested without end": (
        lambda s: ask(
            s, b"\x94\xa6Config\x01\x81\xa1a" + b"\x91" * 100_000 + b"\xc0\x80", tag="Config"
        ),
        "bad_body",
        "Config: ",
    ),
    "a message meant for an earlier life": (
        lambda s: ask(s, pack(PLACE), recipient=99),
        "stale",
        "meant for life 99 of engine/0, which is over",
    ),
    "another major version": (
        lambda s: ask(s, pack(PLACE), version=2 << 8),
        "version",
        "gateway/9 speaks protocol 2.0; this side reads 1.0 to 1.0",
    ),
    "a newer minor version": (
        lambda s: ask(s, pack(PLACE), version=VERSION + 1),
        "version",
        "gateway/9 speaks protocol 1.1; this side reads 1.0 to 1.0",
    ),
    "a message that this actor does not take": (
        lambda s: ask(s, pack(["Shutdown"]), tag="Shutdown"),
        "unknown_tag",
        "engine/0 does not take Shutdown",
    ),
}


@pytest.mark.parametrize(("make", "code"), WITHOUT_ANSWER.values(), ids=WITHOUT_ANSWER)
def test_frames_that_name_no_asker_are_counted(make, code):
    async def scenario():
        async with stage() as on:
            runtime, stranger = await victim(on)
            stranger.send(make(stranger))
            await lives_on(stranger, runtime)
            assert runtime.counters[code] == 1

    run(scenario())


@pytest.mark.parametrize(("make", "code", "text"), REFUSED.values(), ids=REFUSED)
def test_an_ask_that_cannot_be_taken_is_refused_with_the_reason(make, code, text):
    async def scenario():
        async with stage() as on:
            runtime, stranger = await victim(on)
            stranger.send(make(stranger))
            header, refusal = await stranger.hear()
            assert isinstance(refusal, Refusal)
            assert (header.kind, header.correlation) == (Kind.ANSWER, 7)
            assert (header.sender, header.incarnation) == ("engine/0", 1)
            assert refusal.code == code
            assert refusal.message.startswith(text)
            await lives_on(stranger, runtime)
            counted = "not_accepted" if "does not take" in text else code
            assert runtime.counters[counted] == 1

    run(scenario())


def test_a_refused_stream_ends():
    async def scenario():
        async with stage() as on:
            _, stranger = await victim(on)
            stranger.send([b"", pack(stranger.header(Kind.STREAM, "Generate", 7)), b"\xc1"])
            header, refusal = await stranger.hear()
            assert (header.kind, header.correlation) == (Kind.END, 7)
            assert isinstance(refusal, Refusal)

    run(scenario())


def test_a_body_and_an_attachment_beyond_their_limits_are_refused(monkeypatch):
    monkeypatch.setattr(envelope, "MAX_BODY", 1000)
    monkeypatch.setattr(envelope, "MAX_ATTACHMENT", 2000)

    async def scenario():
        async with stage() as on:
            runtime, stranger = await victim(on)
            stranger.send(ask(stranger, b"x" * 1001))
            _, refusal = await stranger.hear()
            assert isinstance(refusal, Refusal)
            assert refusal == Refusal("too_large", "body of 1001 bytes; at most 1000")
            stranger.send([*ask(stranger, pack(PLACE)), b"y" * 2001])
            _, refusal = await stranger.hear()
            assert refusal == Refusal("too_large", "attachment of 2001 bytes; at most 2000")
            await lives_on(stranger, runtime)
            assert runtime.counters["too_large"] == 2

    run(scenario())


def test_a_frame_beyond_what_zmq_takes_costs_the_sender_its_connection(monkeypatch):
    monkeypatch.setattr("bus.zmq_transport.MAX_ATTACHMENT", 10_000)

    async def scenario():
        async with stage() as on:
            runtime, stranger = await victim(on)
            stranger.send([*ask(stranger, pack(PLACE)), b"y" * 10_001])
            other = on.stranger(runtime.entry().mailbox, b"gateway/8#1")
            await lives_on(other, runtime)
            assert [i.sender for i in runtime.actor.got] == ["gateway/9", "gateway/8"]

    run(scenario())


def test_an_older_minor_version_is_taken(monkeypatch):
    monkeypatch.setattr(envelope, "PROTOCOL", (1, 3))
    monkeypatch.setattr(envelope, "VERSION", 0x103)

    async def scenario():
        async with stage() as on:
            _, stranger = await victim(on)  # strangers speak 1.0
            stranger.send(ask(stranger, pack(["Place", "r", "m", 1, 1])))
            assert (await stranger.hear())[1] == PLACED
            stranger.send(ask(stranger, pack(PLACE), version=0x104))
            _, refusal = await stranger.hear()
            assert isinstance(refusal, Refusal)
            assert "speaks protocol 1.4; this side reads 1.0 to 1.3" in refusal.message

    run(scenario())


def test_fields_that_we_do_not_know_yet_are_passed_over():
    async def scenario():
        async with stage() as on:
            _, stranger = await victim(on)
            header = pack(stranger.header(Kind.ASK, "Place", 7))
            longer = b"\x9b" + header[1:] + b"\x01"
            stranger.send([b"", longer, pack([*msgspec.msgpack.decode(pack(PLACE)), "later"])])
            assert (await stranger.hear())[1] == PLACED

    run(scenario())


@pytest.mark.parametrize("kind", [Kind.ANSWER, Kind.ITEM, Kind.END, Kind.EVENT, 8, 255, -1])
def test_kinds_that_no_mailbox_takes_are_counted_and_never_seen_by_the_actor(kind):
    async def scenario():
        async with stage() as on:
            runtime, stranger = await victim(on)
            stranger.say(kind, PLACE, 7)
            await lives_on(stranger, runtime)
            assert runtime.counters["bad_frame"] == 1
            assert len(runtime.actor.got) == 2

    run(scenario())


def test_an_ask_under_a_correlation_that_is_open_is_no_second_ask():
    async def scenario():
        async with stage() as on:
            runtime, stranger = await victim(on)
            runtime.actor.reply = lambda incoming: None
            stranger.say(Kind.ASK, PLACE, 5)
            stranger.say(Kind.ASK, PLACE, 5)
            await until(lambda: runtime.counters["doubled"] == 1)
            runtime.actor.got[-1].answer(PLACED)
            assert (await stranger.hear())[0].correlation == 5
            runtime.actor.reply = placed
            await lives_on(stranger, runtime)
            assert len(runtime.actor.got) == 3

    run(scenario())


def test_a_cancel_of_what_is_not_open_changes_nothing():
    async def scenario():
        async with stage() as on:
            runtime, stranger = await victim(on)
            stranger.send([b"", pack(stranger.header(Kind.CANCEL, "", 12345)), b"anything"])
            await lives_on(stranger, runtime)
            assert runtime.actor.cancelled == []

    run(scenario())


def test_an_asker_whose_life_is_over_is_told_so():
    async def scenario():
        async with stage() as on:
            runtime, _ = await victim(on)
            await on.ready("gateway/1", Scripted(), incarnation=5)
            old = on.stranger(runtime.entry().mailbox, b"gateway/1#4")
            old.say(Kind.TELL, PLACE)
            old.say(Kind.ASK, PLACE, 3)
            _, refusal = await old.hear()
            assert refusal == Refusal("stale", "life 4 of gateway/1 is over")
            assert runtime.counters["from_the_dead"] == 2
            assert len(runtime.actor.got) == 1

    run(scenario())


def test_an_identity_of_any_bytes_harms_nobody():
    """ZMQ's own default identities are no text."""

    async def scenario():
        async with stage() as on:
            runtime, _ = await victim(on)
            unnamed = on.stranger(runtime.entry().mailbox, None)
            await lives_on(unnamed, runtime)
            runtime.publish("life", runtime.heartbeat())
            assert isinstance(await runtime.request("config/0", Describe()), Description)

    run(scenario())


def test_guests_are_not_remembered_for_ever():
    async def scenario():
        async with stage() as on:
            runtime, _ = await victim(on)
            for n in range(200):
                guest = on.stranger(runtime.entry().mailbox, f"cli/{n}#1".encode())
                guest.say(Kind.ASK, PLACE, 1)
                await guest.hear()
                guest.close()
            assert len(runtime.heartbeat().sequences) < 80

    run(scenario())


def test_a_flood_of_bad_frames_is_one_line_in_the_log(monkeypatch):
    async def scenario():
        async with stage() as on:
            lines: list[tuple[str, str]] = []
            processors = [lambda _, __, event: lines.append(event) or event]
            structlog.configure(
                processors=[*processors, lambda *_: ""],
                logger_factory=structlog.ReturnLoggerFactory(),
            )
            structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
            runtime, stranger = await victim(on)
            for _ in range(500):
                stranger.send([b"", b"\xc1", b""])
            stranger.send(ask(stranger, b"\xc1"))
            await stranger.hear()
            await lives_on(stranger, runtime)
            assert runtime.counters["bad_frame"] == 500
            noted = [line["event"] for line in lines]
            assert sorted(noted) == ["bad_body", "bad_frame"]

    try:
        run(scenario())
    finally:
        structlog.reset_defaults()

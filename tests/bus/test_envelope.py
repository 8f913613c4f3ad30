"""Frames in and out: nothing but `FrameError` ever comes out of bytes."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bus.envelope import (
    MAX_ATTACHMENT,
    MAX_BODY,
    MAX_FRAMES,
    MAX_HEADER,
    VERSION,
    FrameError,
    Header,
    Kind,
    decode,
    encode,
)
from schemas import MESSAGES, tag_of
from schemas.supervise import Shutdown
from tests.schemas.strategies import ANY, INT, TEXT, messages

pack = msgspec.msgpack.encode
kinds = st.sampled_from([kind for kind in Kind if kind is not Kind.CANCEL])
headers = st.builds(
    Header,
    version=st.just(VERSION),
    kind=kinds,
    tag=TEXT,
    sender=TEXT,
    incarnation=INT,
    recipient=INT,
    sequence=INT,
    correlation=INT,
    left=st.none() | INT,
    trace=st.none() | TEXT,
)


def header(**changes: Any) -> Header:
    fields = {"kind": Kind.TELL, "tag": "Shutdown", **changes}
    return Header(VERSION, sender="a/0", incarnation=1, recipient=0, sequence=1, **fields)


@given(headers, messages(), st.binary(max_size=20), st.lists(st.binary(max_size=20), max_size=3))
def test_what_was_sent_is_received(head, message, topic, attachments):
    head = msgspec.structs.replace(head, tag=tag_of(type(message)))
    frames = encode(head, message, topic, attachments)
    got_head, got_message, got_attachments = decode(frames)
    assert got_head == head
    assert got_message == message
    assert list(got_attachments) == attachments
    assert frames[0] == topic


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_arbitrary_bytes_raise_nothing_but_frame_error(frames):
    with contextlib.suppress(FrameError):
        decode(frames)


@given(headers, st.sampled_from(sorted(MESSAGES)), st.binary(max_size=300))
def test_arbitrary_bodies_raise_nothing_but_frame_error(head, tag, body):
    with contextlib.suppress(FrameError):
        decode([b"", pack(msgspec.structs.replace(head, tag=tag)), body])


@given(st.lists(ANY, max_size=12))
def test_arbitrary_headers_raise_nothing_but_frame_error(fields):
    with contextlib.suppress(FrameError):
        decode([b"", pack(fields), b""])


@given(messages(), st.data())
def test_a_body_with_one_byte_changed_raises_nothing_but_frame_error(message, data):
    body = bytearray(pack(message))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FrameError):
        decode([b"", pack(header(tag=tag_of(type(message)))), bytes(body)])


@given(messages(), st.data())
@example(Shutdown(), None)
def test_a_truncated_body_is_refused(message, data):
    body = pack(message)
    size = 0 if data is None else data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(FrameError) as caught:
        decode([b"", pack(header(tag=tag_of(type(message)))), body[:size]])
    assert caught.value.code == "bad_body"
    assert caught.value.header is not None


@pytest.mark.parametrize("count", [0, 1, 2, MAX_FRAMES + 1])
def test_too_few_and_too_many_frames(count):
    with pytest.raises(FrameError, match=f"{count} frames; a message has 3 to {MAX_FRAMES}"):
        decode([b""] * count)


def test_the_largest_number_of_frames():
    frames = encode(header(), Shutdown(), b"", [b"x"] * (MAX_FRAMES - 3))
    assert len(decode(frames)[2]) == MAX_FRAMES - 3


class Claim(bytes):
    """Bytes that claim to be more than they are, so that a test need not hold them."""

    size = 0

    def __len__(self) -> int:
        return self.size


def of_size(size: int) -> Claim:
    claim = Claim()
    claim.size = size
    return claim


def test_sizes_are_checked_before_anything_is_read():
    head = pack(header())
    for frames, text in (
        ([b"", of_size(MAX_HEADER + 1), b""], f"header of {MAX_HEADER + 1} bytes"),
        ([b"", head, of_size(MAX_BODY + 1)], f"body of {MAX_BODY + 1} bytes"),
        ([b"", head, pack(Shutdown()), of_size(MAX_ATTACHMENT + 1)], "attachment of"),
    ):
        with pytest.raises(FrameError, match=text) as caught:
            decode(frames)
        assert caught.value.code == "too_large"


@given(st.integers(-(2**63), 2**64 - 1).filter(lambda version: version != VERSION))
def test_no_other_version_is_read_today(version):
    """1.0 is the oldest there is: all others are newer, or of another major."""
    head = msgspec.structs.replace(header(), version=version)
    with pytest.raises(FrameError, match=r"a/0 speaks protocol -?\d+\.\d+; this side reads 1\.0"):
        decode([b"", pack(head), pack(Shutdown())])


@given(st.integers(-(2**63), 2**64 - 1).filter(lambda kind: not 0 <= kind <= 7))
def test_kinds_that_do_not_exist(kind):
    with pytest.raises(FrameError, match=f"kind {kind} is not known"):
        decode([b"", pack(header(kind=kind)), pack(Shutdown())])


@given(st.binary(max_size=50))
def test_a_cancel_has_no_body(body):
    head, message, _ = decode([b"", pack(header(kind=Kind.CANCEL, tag="")), body])
    assert head.kind == Kind.CANCEL
    assert message is None


def test_memory_of_the_receiver_is_enough_for_a_message():
    """Frames may be views of a larger buffer, as ZMQ's zero-copy gives them."""
    frames = [memoryview(bytes(frame)) for frame in encode(header(), Shutdown(), b"", [b"data"])]
    _, message, attachments = decode(frames)
    assert message == Shutdown()
    assert bytes(attachments[0]) == b"data"

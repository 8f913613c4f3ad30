"""A server's answer is taken apart before its speed is believed."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

import pytest

from bench.capture import Answer, WrongAnswer, capture, require_tokens


@contextlib.contextmanager
def server(answer: bytes):
    """Answers one connection with exactly these bytes. Yields its port."""

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def event(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def chunked(*chunks: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (*chunks, b""))


def test_counts_lines_chunks_and_bytes():
    sent = chunked(event(""), event("Hel") + event("lo"), event("", "length"), b"data: [DONE]\n\n")
    with server(sent) as port:
        answer = capture(port, "/v1/chat/completions", b"{}")
    assert answer == Answer(
        status=200,
        data_lines=4,
        token_lines=2,
        http_chunks=4,
        wire_bytes=len(sent),
        text="Hello",
        finish_reason="length",
    )


def test_an_error_status_is_no_answer():
    sent = b'HTTP/1.1 404 Not Found\r\nContent-Length: 17\r\n\r\n{"error": "what"}'
    with server(sent) as port, pytest.raises(WrongAnswer, match=r"status 404: .*what"):
        capture(port, "/", b"{}")


def test_an_error_inside_a_stream_is_no_answer():
    sent = chunked(event("a"), b'data: {"error": {"message": "died"}}\n\n')
    with server(sent) as port, pytest.raises(WrongAnswer, match="died"):
        capture(port, "/", b"{}")


def answer_of(token_lines: int, reason: str = "length") -> Answer:
    return Answer(200, token_lines + 1, token_lines, token_lines + 2, 1, "", reason)


@pytest.mark.parametrize("lines", [62, 63, 64])
def test_a_line_per_token_is_accepted(lines: int):
    require_tokens(answer_of(lines), 64)


@pytest.mark.parametrize(
    "wrong", [answer_of(61), answer_of(65), answer_of(1), answer_of(64, "stop")]
)
def test_anything_else_is_refused(wrong: Answer):
    with pytest.raises(WrongAnswer):
        require_tokens(wrong, 64)

"""Against a server that answers as the test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from launch.traffic.client import Server
from launch.traffic.pace import Pace
from launch.traffic.player import Player, TargetError
from launch.traffic.requests import Request

MODELS = b'{"data": [{"id": "demo"}]}'
DONE = b"data: [DONE]\n\n"
TOKEN = b'data: {"choices": [{"text": "a"}]}\n\n'
USAGE = (
    b'data: {"choices": [], "usage": {"completion_tokens": 2, '
    b'"prompt_tokens_details": {"cached_tokens": 16}}}\n\n'
)
Answer = tuple[int, list[bytes]]


def answered(
    requests: list[Request], answer: Callable[[dict[str, Any]], Answer], model: str | None = None
) -> tuple[Player, list[dict[str, Any]]]:
    """A status and parts of a body for each completion; an empty part ends it amidst."""
    asked: list[dict[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            status, parts = 200, [MODELS]
        else:
            (length,) = [int(x.split()[1]) for x in head.split(b"\r\n") if b"Length" in x]
            body = json.loads(await reader.readexactly(length))
            asked.append(body)
            status, parts = answer(body)
        writer.write(f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for part in parts:
            if part:
                writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        if b"" not in parts:
            writer.write(b"0\r\n\r\n")
        writer.close()

    async def main() -> Player:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            player = Player(Server.at(f"http://127.0.0.1:{port}/v1"), requests, Pace(speed=1000))
            await player.prepare(model)
            await player.play()
            return player

    return asyncio.run(main()), asked


def probed(body: dict[str, Any]) -> bool:
    return "stream" not in body


def test_what_is_sent_and_what_came() -> None:
    requests = [Request(0, 40, 2, True, [1, 2], 16, "demo"), Request(1, 5, 7, model="demo")]
    player, (probe, *asked) = answered(requests, lambda _: (200, [TOKEN, TOKEN + USAGE, DONE]))
    assert probed(probe)
    assert [len(one["prompt"]) for one in asked] == [40, 5]
    assert [(one["max_tokens"], one["ignore_eos"]) for one in asked] == [(2, True), (7, False)]
    for one in player.went:
        outcome = one.outcome
        assert (outcome.tokens, outcome.cached, outcome.error, outcome.ended) == (2, 16, "", True)
        assert outcome.ttft is not None
        assert outcome.duration is not None
        assert 0 < outcome.ttft <= outcome.duration


def test_a_small_vocabulary_is_respected() -> None:
    def answer(body: dict[str, Any]) -> Answer:
        fits = max(body["prompt"]) < 256
        return (200, [TOKEN, USAGE, DONE]) if fits else (400, [b'{"error": {}}'])

    player, _ = answered([Request(0, 40, 2, model="demo")], answer)
    assert player.errors == 0


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ((429, [b'{"error": {"message": "too many"}}']), "HTTP 429", "too many"),
        ((503, [b"busy"]), "HTTP 503", "busy"),
        ((200, [TOKEN]), "cut off", "without [DONE]"),
        ((200, [TOKEN, b""]), "cut off", "ended before"),
        ((200, [b"data: {nonsense\n\n"]), "no completion", "no completion"),
        ((200, [TOKEN, b'data: {"error": {"message": "died"}}\n\n', DONE]), "in stream", "died"),
    ],
)
def test_errors_are_told_apart(answer: Answer, kind: str, said: str) -> None:
    player, _ = answered(
        [Request(0, 4, 2, model="demo")], lambda body: (200, []) if probed(body) else answer
    )
    assert [one.outcome.error for one in player.went] == [kind]
    assert said in player.reasons[kind]
    assert (player.errors, player.ended, player.running) == (1, 1, 0)


def test_a_model_that_is_not_served_is_refused_before_anything_is_sent() -> None:
    requests = [Request(0, 4, 2, model="theirs")]
    with pytest.raises(TargetError, match=r"does not serve 'theirs'.*--model: it has demo"):
        answered(requests, lambda _: (200, []))
    player, asked = answered(requests, lambda _: (200, [TOKEN, USAGE, DONE]), "demo")
    assert {one["model"] for one in asked} == {"demo"}
    assert player.errors == 0


def test_a_server_that_takes_no_token_ids_is_refused() -> None:
    with pytest.raises(TargetError, match="takes no token ids as prompt: text only"):
        answered([Request(0, 4, 2)], lambda _: (400, [b'{"error": {"message": "text only"}}']))

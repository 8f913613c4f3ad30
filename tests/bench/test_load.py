"""The streaming client counts what came, however the network cut it."""

from __future__ import annotations

import asyncio

import pytest

from bench.load import Burst, LoadError, Sample, drive, prompts, summarise

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
LINES = [b'data: {"choices":[{"text":"%d"}]}\n\n' % n for n in range(3)]
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BURST = Burst(width=2, prompt=7, output=3, seed=1)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def run(answer: bytes, size: int) -> list[Sample]:
    """Both requests of `BURST` get `answer` in pieces of `size` bytes."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        for at in range(0, len(answer), size):
            writer.write(answer[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read(1 << 20)
        writer.close()

    async def main():
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.wait_for(drive(port, "m", BURST), 20)

    return asyncio.run(main())


@pytest.mark.parametrize("size", [1, 3, 7, 50, 10_000])
def test_every_line_is_counted_once(size: int):
    answer = HEAD + b"".join(map(chunk, [*LINES, USAGE, b"data: [DONE]\n\n", b""]))
    samples = run(answer, size)
    assert [(len(sample.arrivals), sample.tokens) for sample in samples] == [(3, 3)] * 2
    assert all(sample.ttft >= 0 for sample in samples)


def test_a_refusal_is_an_error():
    with pytest.raises(LoadError, match="refused"):
        run(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 1000)


def test_an_answer_without_usage_is_an_error():
    answer = HEAD + b"".join(map(chunk, [*LINES, b"data: [DONE]\n\n", b""]))
    with pytest.raises(LoadError, match="no usage"):
        run(answer, 1000)


def test_prompts_are_the_same_for_all_and_share_nothing():
    burst = Burst(width=8, prompt=64, output=1, seed=5)
    assert prompts(burst) == prompts(burst)
    starts = {tuple(prompt[:16]) for seed in range(20) for prompt in prompts(Burst(8, 64, 1, seed))}
    assert len(starts) == 160


def test_summary():
    fast = Sample(sent=0.0, arrivals=[0.1, 0.2, 0.3], tokens=3)
    slow = Sample(sent=0.0, arrivals=[0.3, 0.8], tokens=2)
    found = summarise([fast, slow])
    assert found["tokens_per_s"] == pytest.approx(5 / 0.8)
    assert found["ttft_p50"] == pytest.approx(200)
    assert found["ttft_p99"] == pytest.approx(300)
    assert found["itl_mean"] == pytest.approx((100 + 500) / 2)
    assert found["gap_p99"] == pytest.approx(500)


def test_an_answer_in_one_line_has_no_gap():
    found = summarise([Sample(sent=0.0, arrivals=[0.5], tokens=64)])
    assert found["gap_p99"] == 0
    assert found["tokens_per_s"] == pytest.approx(128)

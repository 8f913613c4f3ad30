"""What bench.failover takes out of an answer."""

from __future__ import annotations

import asyncio

import pytest

from bench.failing.followed import Followed, percentiles
from bench.load import LoadError, Sample

HEAD = b'HTTP/1.1 200 OK\r\nx-callboard-placement: {"engine":"engine/1","rank":0}\r\n\r\n'


def followed(arrivals: list[float], whole: bytes = b"") -> Followed:
    async def make() -> Followed:
        return Followed()

    answer = asyncio.run(make())
    answer.sample = Sample(0.0, arrivals, len(arrivals))
    answer.whole = whole
    return answer


def test_the_silence_ends_with_the_next_token() -> None:
    assert followed([1.0, 1.1, 1.5, 1.6]).silence(1.2) == pytest.approx(0.3)


def test_what_was_on_its_way_does_not_end_the_silence() -> None:
    assert followed([1.0, 1.1, 1.21, 1.9, 2.0]).silence(1.2) == pytest.approx(0.7)


def test_a_later_silence_is_none_of_the_kill() -> None:
    assert followed([1.1, 1.4, 1.5, 9.0]).silence(1.2) == pytest.approx(0.2)


def test_an_answer_that_was_over_has_no_silence() -> None:
    assert followed([1.0, 1.1]).silence(1.2) is None


def test_text_and_engine() -> None:
    lines = b'data: {"choices":[{"text":"a"}]}\r\n\r\ndata: {"choices":[{"text":"b"}]}\n\n'
    answer = followed([1.0, 2.0], HEAD + lines)
    assert (answer.text(), answer.engine) == ("ab", "engine/1")


def test_an_error_inside_the_stream_is_no_answer() -> None:
    with pytest.raises(LoadError, match="gone"):
        followed([1.0], HEAD + b'data: {"error":{"message":"gone"}}\n\n').text()


def test_percentiles_are_of_what_was_measured() -> None:
    assert percentiles([0.001 * n for n in range(1, 101)])["p99"] == pytest.approx(100)
    assert percentiles([0.005])["p50"] == pytest.approx(5)
    assert percentiles([])["max"] is None

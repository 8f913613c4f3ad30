"""What LMCache's server says of itself, read; and what is no such thing."""

from __future__ import annotations

import msgspec
import pytest

from actors.kv_store.asking import NoAnswer, Told, ask, told
from tests.actors.kv_store.stand_in import METRICS, status
from tests.launch.cli.running import free_port


def test_memory_and_counts_of_all_labels() -> None:
    assert told(status(used=77).encode(), METRICS) == Told(True, 77, 3, 1792, 768)


def test_counters_that_are_not_there_yet_are_zero() -> None:
    assert told(status(healthy=False).encode(), "") == Told(False, 0, 3, 0, 0)


@pytest.mark.parametrize("answer", ["", "[]", '{"error": "engine not initialized"}'])
def test_another_answer_is_an_error(answer: str) -> None:
    with pytest.raises(msgspec.MsgspecError):
        told(answer.encode(), "")


def test_nobody_there() -> None:
    with pytest.raises(NoAnswer, match="refused"):
        ask("127.0.0.1", int(free_port()))

"""Ports that a bench hands out are free with all that it takes beside them."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import disagg
from bench.ports import free_from, of_events

PORT = "VLLM_NIXL_SIDE_CHANNEL_PORT"


@contextmanager
def draws(monkeypatch: pytest.MonkeyPatch, *, taken: int) -> Iterator[tuple[int, int]]:
    """Two ports that come out of the hat, in this order; at the distance `taken` from the first
    somebody listens.
    """
    offsets = [*range(8), *of_events(2)]
    first = free_from(offsets)
    with socket.create_server(("127.0.0.1", first + taken)):
        second = free_from(offsets)
        both = iter([first, second])
        monkeypatch.setattr(random, "randrange", lambda *_: next(both))
        yield first, second


def test_a_port_whose_neighbour_is_taken_is_not_chosen(monkeypatch: pytest.MonkeyPatch):
    with draws(monkeypatch, taken=1) as (_, second):
        assert free_from((0, 1)) == second


def test_what_is_taken_between_them_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    with draws(monkeypatch, taken=1) as (first, _):
        assert free_from((0, 2)) == first


def test_that_none_is_free_is_an_error(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(random, "randrange", lambda *_: server.getsockname()[1])
        with pytest.raises(OSError, match="no port from which 1 are free"):
            free_from((0,))


def test_events_take_six_ports_for_each_rank():
    assert sorted(of_events(2))[:4] == [0, 1, 500, 501]
    assert len(set(of_events(8))) == 48


@pytest.mark.parametrize(("way", "taken"), [("prefill/decode", 3), ("plain proxy", 1)])
def test_side_channels_get_neighbours_that_are_both_free(
    way: str, taken: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with draws(monkeypatch, taken=taken) as (_, second):
        server, _ = disagg._server(way, tmp_path, {}, tmp_path)
    if way == "plain proxy":
        words = [word for command in server.commands for word in command]
        assert [f"{PORT}={second}", f"{PORT}={second + 1}"] == [w for w in words if PORT + "=" in w]
    else:
        assert server.environment[PORT] == str(second + disagg.BESIDE)
        assert f"port = {second}\n" in (tmp_path / "topology.toml").read_text()

"""Processes: a simulated engine, its publisher, its KvEventActor, and a reader of vLLM's events."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.actors.kv_events.model import VllmReader
from tests.actors.kv_events.parties import Ports, Subscriber
from tests.launch.cli.running import GUARD, callboard, free_port, kv_event_port, serving

pytestmark = pytest.mark.timeout(180)
SIZE = 16


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + GUARD
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def pid_of(actor: str) -> int:
    """As `callboard ps` says; 0 while it is not ready."""
    (topology,) = json.loads(callboard("ps", "--json").stdout)
    found = [a for a in topology["actors"] if a["actor"] == actor and a["state"] == "ready"]
    return int(found[0]["pid"]) if found else 0


@contextmanager
def served() -> Iterator[tuple[httpx.Client, Subscriber]]:
    port, events = free_port(), kv_event_port()
    ports = Ports()
    ports.public, ports.replay = int(events), int(events) + 500
    words = ("--port", port, "--kv-event-port", events, "--kv-index", "--engine", "sim")
    with serving("serve", "demo", *words, "--sim-speed", "0"):
        subscriber = Subscriber(ports, start=0)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=GUARD) as client:
                yield client, subscriber
        finally:
            subscriber.close()


def complete(client: httpx.Client, prompt: str) -> None:
    body = {"model": "demo", "prompt": prompt, "max_tokens": 1, "ignore_eos": True}
    wait_for(lambda: client.post("/v1/completions", json=body).status_code == 200)


def told(subscriber: Subscriber) -> VllmReader:
    """What the reader holds: it began anew with every life of the actor, as each begins so."""
    reader = VllmReader()
    for _, payload in list(subscriber.got):
        reader.take(payload)
    return reader


def blocks(prompt: str) -> int:
    return len(prompt) // SIZE


def test_events_outlive_the_actor_and_no_engine(run_directory: Path) -> None:
    with served() as (client, subscriber):
        prompts = [letter * 160 for letter in "abc"]
        for prompt in prompts:
            complete(client, prompt)
        wait_for(lambda: len(told(subscriber).held()) >= 3 * blocks(prompts[0]))
        held = told(subscriber).held()
        assert {medium for medium, _ in held} == {"GPU"}

        # The actor is killed: its next life finds the same blocks, under greater numbers.
        last = subscriber.got[-1][0]
        os.kill(pid_of("kv-events/0.0"), signal.SIGKILL)
        wait_for(lambda: pid_of("kv-events/0.0") != 0)
        complete(client, "d" * 160)
        wait_for(lambda: len(told(subscriber).held()) >= len(held) + blocks("d" * 160))
        assert held <= told(subscriber).held()
        assert subscriber.got[-1][0] >> 22 > last >> 22
        numbers = [sequence for sequence, _ in subscriber.got]
        assert numbers == sorted(set(numbers))

        # The engine is killed: nothing of it remains, and its next life is told from nothing.
        os.kill(pid_of("engine/0"), signal.SIGKILL)
        wait_for(lambda: not told(subscriber).held())
        wait_for(lambda: pid_of("engine/0") != 0)
        complete(client, "e" * 160)
        wait_for(lambda: len(told(subscriber).held()) >= blocks("e" * 160))
        assert len(told(subscriber).held()) < 2 * blocks("e" * 160)

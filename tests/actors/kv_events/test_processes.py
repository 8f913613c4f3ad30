"""Processes: a simulated engine, its publisher, its KvEventActor, and a reader of vLLM's events."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from tests.actors.engine.kv_reader import KvReader
from tests.actors.kv_events.model import VllmReader
from tests.actors.kv_events.parties import Ports, Subscriber
from tests.launch.cli.running import GUARD, callboard, free_port, kv_event_port, serving

pytestmark = pytest.mark.timeout(180)
SIZE = 16
SMALL = ("--num-gpu-blocks-override", "80", "--max-model-len", "800")


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
def served(*flags: str) -> Iterator[tuple[httpx.Client, Subscriber]]:
    port, events = free_port(), kv_event_port()
    ports = Ports()
    ports.public, ports.replay = int(events), int(events) + 500
    words = ("--port", port, "--kv-event-port", events, "--kv-index", "--engine", "sim")
    with serving("serve", "demo", *words, "--sim-speed", "0", *flags):
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


@contextmanager
def loaded(client: httpx.Client) -> Iterator[list[int]]:
    """Four clients with prompts that share beginnings; the status codes that they got."""
    over, codes = threading.Event(), list[int]()

    def load(seed: int) -> None:
        draw = Random(seed)
        with httpx.Client(base_url=client.base_url, timeout=GUARD) as own:
            while not over.is_set():
                prompt = draw.choice("abcdefgh") * draw.randrange(1, 300) + str(draw.random())
                body = {"model": "demo", "prompt": prompt, "max_tokens": draw.randrange(1, 40)}
                codes.append(own.post("/v1/completions", json=body).status_code)

    threads = [threading.Thread(target=load, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield codes
    finally:
        over.set()
        for thread in threads:
            thread.join()


def census(events: int) -> set[Any]:
    """What the engine holds, as its block pool has it."""
    with KvReader() as reader:
        found = reader.census(f"tcp://127.0.0.1:{events + 2500}")
    assert found is not None
    return set(found[1])


def answered(codes: list[int], more: int) -> None:
    """So many more requests were served."""
    so_far = codes.count(200)
    wait_for(lambda: codes.count(200) > so_far + more)


def kill(actor: str) -> None:
    """Its next life is ready."""
    before = pid_of(actor)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: pid_of(actor) not in {0, before})


def test_actor_and_engine_killed_under_load(run_directory: Path) -> None:
    """The cache is too small. When it is quiet again a reader holds what the engine does."""
    with served(*SMALL) as (client, subscriber):
        with loaded(client) as codes:
            for victim in ("kv-events/0.0", "engine/0", "kv-events/0.0"):
                answered(codes, 50)
                kill(victim)
            answered(codes, 50)
        wait_for(lambda: {b for _, b in told(subscriber).held()} == census(subscriber.ports.public))
        assert told(subscriber).clears >= 3
        numbers = [sequence for sequence, _ in subscriber.got]
        assert numbers == sorted(set(numbers))

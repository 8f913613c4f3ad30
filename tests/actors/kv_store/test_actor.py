"""The actor with a server that has LMCache's HTTP alone: the process ends with the actor."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch.local import ActorFailedError, LocalTopology
from schemas.directory import Entries, ListEntries
from schemas.life import Describe, Description
from tests.actors.kv_store.stand_in import METRICS, install, status
from tests.launch.cli.running import ROOT, free_port

ACTOR = "kv-store/0"
GUARD = 30.0


class Place:
    """Where the stand-in is, what it answers, and what it was called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options = {"port": int(free_port()), "http_port": int(free_port()), "memory_gb": 0.5}
        install(folder)

    def tells(self, **of_status: Any) -> None:
        new = self.folder / "new.json"
        new.write_text(json.dumps({"/status": status(**of_status), "/metrics": METRICS}))
        new.replace(self.folder / "told.json")

    @property
    def called(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "called.json").read_text()))

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.called["pid"])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    made = Place(tmp_path)
    made.tells()
    return made


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(GUARD):
            await main()

    asyncio.run(guarded())


async def facts(topology: LocalTopology) -> dict[str, str]:
    answer = await topology.ask(ACTOR, Describe())
    assert isinstance(answer, Description)
    return answer.facts


async def holds(topology: LocalTopology, memory: str) -> bool:
    return (await facts(topology))["memory"].startswith(memory)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """`GUARD` bounds it."""
    while not await holds():  # noqa: ASYNC110  nothing tells it
        await asyncio.sleep(0.02)


def test_it_is_ready_with_its_server_and_ends_it(place: Place) -> None:
    async def main() -> None:
        async with LocalTopology({ACTOR: place.options}) as topology:
            process = place.process
            told = await facts(topology)
            assert told["memory"] == "0 of 512 MiB in 3 chunks"
            assert told["tokens"] == "768 found of 1792 asked for"
            assert told["server"].endswith(f"pid {process.pid}")
            place.tells(used=4 << 20)
            await until(lambda: holds(topology, "4 of 512 MiB"))
        assert not process.is_running()

    run(main)
    words = place.called["words"]
    assert words[:2] == ["lmcache", "server"]
    flags = dict(zip(words[2::2], words[3::2], strict=True))
    assert flags["--port"] == str(place.options["port"])
    assert flags["--l1-size-gb"] == "0.5"
    assert flags["--host"] == flags["--http-host"] == "127.0.0.1"


def test_a_server_that_ends_at_its_start_is_the_reason(place: Place) -> None:
    (place.folder / "fail").touch()

    async def main() -> None:
        with pytest.raises(ActorFailedError, match="LMCache's server ended: exit code 7"):
            async with LocalTopology({ACTOR: place.options}):
                pass

    run(main)


def test_the_actor_fails_with_its_server(place: Place) -> None:
    async def main() -> None:
        async with LocalTopology({ACTOR: place.options}) as topology:
            place.process.kill()
            await until(lambda: is_over(topology))

    run(main)


async def is_over(topology: LocalTopology) -> bool:
    answer = await topology.ask("config/0", ListEntries())
    assert isinstance(answer, Entries)
    states = [entry.state for entry in answer.entries if entry.actor == ACTOR]
    return states in ([], ["failed"])


def test_options_that_cannot_be(place: Place) -> None:
    async def main() -> None:
        with pytest.raises(ActorFailedError, match="memory_gb"):
            async with LocalTopology({ACTOR: {**place.options, "memory_gb": 0}}):
                pass

    run(main)
    assert not (place.folder / "called.json").exists()


PARENT = """
import os, subprocess, sys
words = ["-m", "actors.kv_store.lmcache_server", str(os.getpid()), "--http-port", sys.argv[1]]
subprocess.Popen([sys.executable, *words]).wait()
"""


def test_the_server_dies_with_whoever_started_it(place: Place) -> None:
    port = str(place.options["http_port"])
    with subprocess.Popen([sys.executable, "-c", PARENT, port]) as parent:
        [child] = wait_for_child(psutil.Process(parent.pid), place)
        parent.send_signal(signal.SIGKILL)
        child.wait(GUARD)  # raises where it lives on
    assert not child.is_running()


def wait_for_child(parent: psutil.Process, place: Place) -> list[psutil.Process]:
    """Its server, once it runs the program that it is told to."""
    while not (place.folder / "called.json").exists():
        assert parent.is_running()
    return parent.children()


def test_a_server_whose_parent_is_another_ends_at_once(place: Place) -> None:
    words = ["-m", "actors.kv_store.lmcache_server", "1", "--http-port", "1"]
    done = subprocess.run([sys.executable, *words], timeout=GUARD, check=False)
    assert done.returncode == 3
    assert not (place.folder / "called.json").exists()

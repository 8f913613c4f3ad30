"""The same actors in one process: a whole topology with the simulated engine."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine
from typing import Any

import httpx
import pytest

from actors.engine.kv_publisher import INCARNATION
from bus.runtime import Refused
from launch.actors import actors_of
from launch.local import ActorFailedError, LocalTopology
from launch.topology import Engine, KvEvents, Topology
from schemas.directory import Entries, ListEntries
from schemas.kv import AskKvMatch, KvMatch
from schemas.life import Describe, Description
from schemas.placement import Place, Placed
from tests.launch.cli.running import kv_event_port

ENGINE = {"backend": "sim", "model": "sim", "sim_speed": 0.0}
GATEWAY = {"port": 0}


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


async def address(topology: LocalTopology) -> str:
    answer = await topology.ask("gateway/0", Describe())
    assert isinstance(answer, Description)
    return answer.facts["address"]


def test_a_topology_serves_in_one_process():
    async def scenario():
        actors = {"router/0": {}, "engine/0": ENGINE, "engine/1": ENGINE, "gateway/0": GATEWAY}
        async with LocalTopology(actors) as topology:
            placed = await topology.ask("router/0", Place("r", "sim", 10, 10))
            assert isinstance(placed, Placed)
            assert placed.engine in ("engine/0", "engine/1")
            async with httpx.AsyncClient(base_url=await address(topology)) as client:
                while (await client.get("/ready")).status_code != 200:
                    pass  # the model's tokenizer is being read
                body = {"model": "sim", "prompt": "one two", "max_tokens": 5, "ignore_eos": True}
                answer = await client.post("/v1/completions", json=body)
                assert answer.status_code == 200, answer.text
                assert answer.json()["usage"]["completion_tokens"] == 5

    run(scenario())


def test_all_are_ready_when_it_begins_and_everybody_knows_everybody():
    async def scenario():
        async with LocalTopology({"router/0": {}, "engine/0": ENGINE}) as topology:
            listed = await topology.ask("config/0", ListEntries())
            assert isinstance(listed, Entries)
            states = {entry.actor: entry.state for entry in listed.entries}
            assert states == dict.fromkeys(("config/0", "engine/0", "router/0"), "ready")

    run(scenario())


def kv_events(base: int) -> dict[str, Any]:
    """Options of the KvEventActor and the engine of one rank."""
    topology = Topology(
        engines=[Engine(model="sim", backend="sim")], kv_events=KvEvents(port=base, index=True)
    )
    made = actors_of(topology, api_keys=False)
    engine = {**ENGINE, "kv_events_config": made["engine/0"]["kv_events_config"]}
    return {"kv-events/0.0": made["kv-events/0.0"], "engine/0": engine}


def test_kv_events_reach_their_actor():
    async def scenario():
        tokens = list(range(1, 65))
        async with LocalTopology(
            {**kv_events(int(kv_event_port())), "gateway/0": GATEWAY}
        ) as topology:
            async with httpx.AsyncClient(base_url=await address(topology)) as client:
                body = {"model": "sim", "prompt": tokens, "max_tokens": 1}
                answer = await client.post("/v1/completions", json=body)
                assert answer.status_code == 200, answer.text
            found = 0
            while found < 4:
                match = await topology.ask("kv-events/0.0", AskKvMatch(token_ids=tokens))
                assert isinstance(match, KvMatch)
                found = match.found.get("device", 0)

    run(scenario())


def test_a_port_that_is_taken_ends_the_start_with_a_sentence():
    async def scenario():
        base = int(kv_event_port())
        with (
            socket.create_server(("127.0.0.1", base)),
            pytest.raises(ActorFailedError, match=r"kv-events/0.0 did not start: .*in use") as said,
        ):
            async with LocalTopology(kv_events(base)):
                pytest.fail("it never begins")
        assert "--kv-event-port" in str(said.value)

    run(scenario())


def test_two_topologies_do_not_meet():
    async def scenario():
        async with (
            LocalTopology({"router/0": {}}) as one,
            LocalTopology({"engine/0": ENGINE}) as two,
        ):
            with pytest.raises(Refused, match="unreachable"):
                await one.ask("engine/0", Describe())
            with pytest.raises(Refused, match="unreachable"):
                await two.ask("router/0", Describe())

    run(scenario())


def test_an_actor_that_cannot_start_ends_it_with_the_reason():
    async def scenario():
        wrong = {"backend": "sim", "model": "sim", "block_size": -1}
        with pytest.raises(ActorFailedError, match=r"engine/0 did not start: .*block_size"):
            async with LocalTopology({"router/0": {}, "engine/0": wrong}):
                pytest.fail("it never begins")

    run(scenario())


def test_an_unknown_kind_is_refused():
    async def scenario():
        with pytest.raises(ValueError, match="the kind must be one of"):
            async with LocalTopology({"oven/0": {}}):
                pytest.fail("it never begins")

    run(scenario())


def test_a_start_that_is_cancelled_leaves_nothing():
    async def scenario():
        before = asyncio.all_tasks()
        topology = LocalTopology({"engine/0": ENGINE, "router/0": {}})
        entering = asyncio.ensure_future(topology.__aenter__())
        await asyncio.sleep(0)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert asyncio.all_tasks() == before

    run(scenario())


def test_an_error_inside_ends_the_topology_and_goes_on():
    async def scenario():
        with pytest.raises(ZeroDivisionError):
            async with LocalTopology({"engine/0": ENGINE}):
                raise ZeroDivisionError

    run(scenario())


def test_engines_of_this_process_leave_no_variables_behind(monkeypatch):
    monkeypatch.delenv(INCARNATION, raising=False)

    async def scenario():
        async with LocalTopology({"engine/0": ENGINE, "engine/1": ENGINE}):
            assert INCARNATION in os.environ
        assert INCARNATION not in os.environ

    run(scenario())

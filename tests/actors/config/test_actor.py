"""ConfigActor compares what lives, and a gateway does not open on what contradicts itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from launch.local import LocalTopology
from schemas.agreement import Agreement, AskAgreement
from schemas.directory import Entries, ListEntries
from schemas.life import Describe, Description

GUARD = 20.0
GATEWAY = {"host": "127.0.0.1", "port": 0}


def sim(**more: Any) -> dict[str, Any]:
    return {"backend": "sim", "model": "m", "sim_speed": 0, **more}


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + GUARD
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def agreement(topology: LocalTopology) -> Agreement:
    answer = await topology.ask("config/0", AskAgreement())
    assert isinstance(answer, Agreement)
    return answer


async def states(topology: LocalTopology) -> dict[str, str]:
    entries = await topology.ask("config/0", ListEntries())
    assert isinstance(entries, Entries)
    return {entry.actor: entry.state for entry in entries.entries}


def test_equal_engines_agree() -> None:
    async def main() -> None:
        actors = {"engine/0": sim(), "engine/1": sim(), "gateway/0": GATEWAY}
        async with LocalTopology(actors, drain=1.0) as topology:
            assert await agreement(topology) == Agreement([])

    asyncio.run(main())


def test_a_gateway_stays_closed_until_actors_agree() -> None:
    """Two block sizes under one name. What static checks refuse can still come to be, live.

    It listens, so that it can say why: 503 with the problem, beside its state in `callboard ps`.
    """

    async def main() -> None:
        actors = {
            "engine/0": sim(block_size=16),
            "engine/1": sim(block_size=32),
            "gateway/0": GATEWAY,
        }
        topology = LocalTopology(actors, drain=1.0)
        opening = asyncio.ensure_future(topology.__aenter__())

        async def contradicted() -> bool:
            if not hasattr(topology, "_visitor"):
                return False
            now = await states(topology)
            engines = [now.get("engine/0"), now.get("engine/1")]
            return engines == ["ready", "ready"] and bool((await agreement(topology)).problems)

        await until(contradicted)
        (problem,) = (await agreement(topology)).problems
        assert (problem.severity, problem.rule) == ("error", "block-size")
        assert problem.actors == ["engine/0", "engine/1"]
        await asyncio.sleep(1.2)  # longer than the gateway takes from the last engine to ready
        assert (await states(topology))["gateway/0"] == "starting"
        gateway = await topology.ask("gateway/0", Describe())
        assert isinstance(gateway, Description)
        async with httpx.AsyncClient(base_url=gateway.facts["address"]) as client:
            answer = await client.get("/ready")
        assert answer.status_code == 503
        assert answer.json()["status"] == "unavailable"
        assert problem.says in answer.json()["problems"]
        assert not opening.done()
        opening.cancel()
        await asyncio.wait([opening])

    asyncio.run(main())

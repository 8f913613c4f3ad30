"""A monitor beside a whole topology in one process, with the simulated engine."""

from __future__ import annotations

import asyncio

from launch.local import LocalTopology
from schemas.health import AskHealth, HealthReport
from schemas.life import Describe, Description

ENGINE = {"backend": "sim", "model": "sim", "sim_speed": 0.0}


def test_a_simulated_engine_answers_canaries_and_all_are_well():
    async def scenario() -> None:
        actors = {
            "router/0": {},
            "engine/0": ENGINE,
            "monitor/0": {"canary_idle": 0.2, "needs": ["engine"]},
        }
        async with LocalTopology(actors) as topology:
            sent, refused = 0, 0
            while sent < 3:
                described = await topology.ask("monitor/0", Describe())
                assert isinstance(described, Description)
                sent = int(described.facts["canaries sent"])
                refused = described.counters.get("canary_refused", 0)
            report = await topology.ask("monitor/0", AskHealth())
            assert isinstance(report, HealthReport)
            assert report.ready, report.problems
            found = {verdict.actor: verdict.condition for verdict in report.verdicts}
            assert found == dict.fromkeys(("config/0", "engine/0", "router/0"), "healthy")
            assert refused == 0

    asyncio.run(asyncio.wait_for(scenario(), 60))

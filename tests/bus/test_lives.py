"""How lives end, over real sockets: in order, by drain, by SIGKILL, and by the next one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from bus.runtime import Refused
from schemas.life import Describe, Description, Died, Drain, Draining
from schemas.message import Message
from tests.bus.parties import (
    GENERATE,
    LOAD,
    PLACE,
    PLACED,
    Scripted,
    pair,
    placed,
    run,
    stage,
    until,
)


def test_stop_refuses_what_is_open_and_says_goodbye():
    """The last words leave although the sockets close right after them."""

    async def scenario():
        async with stage() as on:
            a, asker, b, server = await pair(on, lambda incoming: None)
            ends: list[Message] = []
            for _ in range(500):
                a.ask("engine/0", PLACE, ends.append)
            await until(lambda: len(server.got) == 500)
            await b.stop()
            await until(lambda: len(ends) == 500)
            assert {end.message for end in ends} == {"engine/0 stopped"}
            assert {end.code for end in ends} == {"died"}
            await until(lambda: asker.gone == [("engine/0", 1, "it stopped")])
            assert server.stops == 1

    run(scenario())


def test_drain_finishes_what_runs_then_stops():
    async def scenario():
        async with stage() as on:
            a, _, b, server = await pair(on, lambda incoming: None)
            ends: list[Message] = []
            a.ask("engine/0", PLACE, ends.append)
            await until(lambda: len(server.got) == 1)
            server.work = 1
            server.reply = lambda incoming: incoming.refuse("draining", "no new work")
            assert await a.request("engine/0", Drain(20.0)) == Draining(1)
            await until(lambda: server.drains == [20.0])
            assert b.state == "draining"
            with pytest.raises(Refused, match="draining"):
                await a.request("engine/0", PLACE)
            server.got[0].answer(PLACED)
            server.work = 0
            await until(lambda: b.state == "stopped")
            await until(lambda: ends == [PLACED])
            await until(lambda: a.directory.find("engine/0") is None)

    run(scenario())


def test_drain_ends_when_its_time_is_over():
    async def scenario():
        async with stage() as on:
            a, _, b, server = await pair(on, lambda incoming: None)
            server.work = 1
            ends: list[Message] = []
            a.ask("engine/0", PLACE, ends.append)
            await until(lambda: len(server.got) == 1)
            await a.request("engine/0", Drain(0.1))
            await until(lambda: b.state == "stopped" and bool(ends))
            assert ends[0].code == "died"

    run(scenario())


def test_a_life_ends_once_however_often_it_is_told_to():
    async def scenario():
        async with stage() as on:
            _, _, b, server = await pair(on)
            b.fail("no way on")
            b.drain(5.0)
            b.fail("again")
            await asyncio.gather(b.stop(), b.stop())
            assert server.stops == 1
            assert (b.failed, b.detail) == (True, "no way on")
            # What its timers still do after that harms nobody.
            b.publish("load", LOAD)
            assert not b.tell("gateway/0", PLACE)
            ends: list[Message] = []
            b.ask("gateway/0", PLACE, ends.append)
            await until(lambda: bool(ends))
            assert ends[0].code == "cancelled"

    run(scenario())


@pytest.mark.parametrize("outside", [False, True])
def test_a_life_that_fails_says_so_before_it_clears_up(outside: bool):
    class Slow(Scripted):
        async def on_stop(self) -> None:
            await cleared.wait()

    cleared = asyncio.Event()

    async def scenario():
        async with stage() as on:
            on.config()
            listener = Scripted(listens={"engine": ("life",)})
            on.launch("gateway/0", listener)
            failing = await on.ready("engine/0", Slow())
            await until(lambda: any(m.state == "ready" for _, _, m in listener.events))
            failing.fail("EngineCore was killed", outside=outside)
            await until(lambda: any(m.state == "failed" for _, _, m in listener.events))
            last = listener.events[-1][2]
            assert (last.detail, last.outside) == ("EngineCore was killed", outside)
            cleared.set()

    run(scenario())


def test_a_killed_process_ends_every_ask_as_died_when_that_is_known():
    async def scenario():
        async with stage() as on:
            on.config()
            watcher = Scripted()
            w = on.launch("supervisor/0", watcher, options={})
            asker = Scripted()
            a = await on.ready("gateway/0", asker)
            await on.known("supervisor/0", 1)
            victim = subprocess.Popen(  # noqa: ASYNC220  it only forks
                [sys.executable, "-m", "tests.bus.victim", str(on.directory)],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
            )
            try:
                await on.known("engine/0", 1)
                ends: list[Message] = []
                for _ in range(20):
                    a.ask("engine/0", PLACE, ends.append, timeout=300.0)
                a.stream("engine/0", GENERATE, ends.append)
                answer = await a.request("engine/0", Describe())
                assert isinstance(answer, Description)
                assert answer.queues[0].depth == 22  # all have arrived, this one too
            finally:
                victim.kill()
                victim.communicate()
            assert not ends
            died = Died("engine/0", 1, "killed by SIGKILL")
            while not asker.gone:  # its subscription to the supervisor may be new
                w.publish("life", died)
                await asyncio.sleep(0.005)
            assert len(ends) == 21
            assert {end.code for end in ends} == {"died"}
            assert {end.message for end in ends} == {"engine/0 died: killed by SIGKILL"}

    run(scenario())


def test_nobody_loses_an_actor_when_config_restarts():
    async def scenario():
        async with stage() as on:
            config = on.config()
            asker, server = Scripted(), Scripted(placed)
            a = on.launch("gateway/0", asker)
            await on.ready("engine/0", server)
            await on.known("gateway/0", 1)
            config.transport.close()  # as if killed: nobody is told anything
            config._over = True
            config._membership._stopped = True
            on.runtimes.remove(config)
            assert await a.request("engine/0", PLACE) == PLACED  # not needed for that
            second = on.config(incarnation=2)
            await until(lambda: len(second.directory.entries()) == 3)
            await until(lambda: a.directory.epoch == 2)
            assert await a.request("engine/0", PLACE) == PLACED
            assert [gone for gone in asker.gone if gone[0] != "config/0"] == []
            await on.known("engine/0", 1)

    run(scenario())


def test_a_new_life_takes_over_and_the_old_one_is_gone_for_ever():
    async def scenario():
        async with stage() as on:
            a, asker, _, _ = await pair(on, lambda incoming: None)
            ends: list[Message] = []
            a.ask("engine/0", PLACE, ends.append)
            second = Scripted(placed)
            await on.ready("engine/0", second, incarnation=2)
            assert ("engine/0", 1, "a new life of it began") in asker.gone
            assert [end.code for end in ends] == ["died"]
            assert await a.request("engine/0", PLACE) == PLACED
            assert len(second.got) == 1
            # An ask that means the earlier life never reaches the new one.
            a.ask("engine/0", PLACE, ends.append, incarnation=1)
            await until(lambda: len(ends) == 2)
            assert ends[1].code == "stale"
            assert len(second.got) == 1

    run(scenario())


def test_a_life_that_is_over_may_not_register():
    async def scenario():
        async with stage() as on:
            on.config()
            await on.ready("engine/0", Scripted(), incarnation=5)
            old = on.launch("engine/0", Scripted(), incarnation=4)
            await until(lambda: old.state == "stopped")
            assert old.failed
            assert "life 4 of engine/0 is over" in old.detail

    run(scenario())


def test_an_actor_without_options_in_the_topology_says_so():
    async def scenario():
        async with stage() as on:
            on.config()
            lost = on.launch("engine/77", Scripted())
            await until(lambda: lost.state == "stopped")
            assert lost.detail == "not_found: the topology has no actor 'engine/77'"

    run(scenario())

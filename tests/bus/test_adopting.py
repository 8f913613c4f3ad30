"""Options that change while an actor runs: checked first, all or nothing, always answered."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bus.runtime import Refused
from schemas.config import Adopt, Adopted, Setting
from tests.bus.parties import pair, run, stage


def limits(used: list[Setting]) -> Callable[..., object]:
    """A hook that knows one option, `limit`: a number, which it keeps in `used`."""

    def adopt(options: dict[str, Setting]) -> tuple[dict[str, Setting], Callable[[], None]]:
        if set(options) != {"limit"}:
            raise ValueError(f"{', '.join(options)}: there is only limit")
        if options["limit"] == "broken":
            raise RuntimeError("broken")
        limit = float(str(options["limit"]))
        return {"limit": limit}, lambda: used.append(limit)

    return adopt


def test_a_check_changes_nothing_and_a_change_makes_the_version():
    async def scenario():
        async with stage() as on:
            a, _, b, actor = await pair(on)
            used: list[Setting] = []
            actor.adopt = limits(used)
            asked = Adopt(7, {"limit": "2.5"}, check=True)
            assert await a.request("engine/0", asked) == Adopted({"limit": 2.5})
            assert (used, b.config_version) == ([], 1)
            asked = Adopt(7, {"limit": "2.5"}, check=False)
            assert await a.request("engine/0", asked) == Adopted({"limit": 2.5})
            assert (used, b.config_version) == ([2.5], 7)

    run(scenario())


def test_all_or_nothing_and_a_hook_that_raises_is_answered():
    async def scenario():
        async with stage() as on:
            a, _, b, actor = await pair(on)
            used: list[Setting] = []
            levels: list[str] = []
            actor.adopt, b.set_log_level = limits(used), levels.append
            for options, text in (
                ({"log_level": "debug", "other": 1}, "invalid: other: there is only limit"),
                ({"log_level": "loud"}, "invalid: log.level is 'loud': choose one of debug"),
                ({"log_level": "debug", "limit": "broken"}, "internal"),
            ):
                with pytest.raises(Refused, match=text):
                    await a.request("engine/0", Adopt(7, options, check=False))
            assert (used, levels, b.config_version) == ([], [], 1)
            both = Adopt(8, {"log_level": "debug", "limit": 3}, check=False)
            await a.request("engine/0", both)
            assert (used, levels, b.config_version) == ([3.0], ["debug"], 8)

    run(scenario())


def test_an_actor_reads_its_options_only_at_its_start_unless_it_says_otherwise():
    async def scenario():
        async with stage() as on:
            a, _, _, _ = await pair(on)
            with pytest.raises(Refused, match="limit: engine/0 reads its options when it starts"):
                await a.request("engine/0", Adopt(7, {"limit": 1}, check=True))

    run(scenario())

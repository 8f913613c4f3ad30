"""RouterCore: prefill and decode engines."""

from __future__ import annotations

from typing import Any

from actors.router import events
from actors.router.core import RouterCore
from schemas.placement import PlacementMade, Policy
from tests.actors.router.parts import (
    asked,
    blocks,
    core,
    follow,
    load,
    placed,
    published,
    refused,
    seen,
    stored,
)

PROMPT = blocks(*range(10))
TOKENS = 160


def both(policy: Policy = "kv", **settings: Any) -> RouterCore:
    """Two prefill and two decode engines, with KV events."""
    router = core(policy, **settings)
    for name in ("p0", "p1"):
        router.handle(seen(f"engine/{name}", role="prefill", kv_publisher="callboard"))
    for name in ("d0", "d1"):
        router.handle(seen(f"engine/{name}", role="decode", kv_publisher="callboard"))
    return router


def test_whole_requests_go_to_engines_that_answer():
    router = both()
    answer = placed(router, asked(1, TOKENS, PROMPT))
    assert answer.engine in ("engine/d0", "engine/d1")
    assert answer.role == "decode"
    (why,) = router.decisions.find("r1", 0.0)
    assert why.placed is not None
    reasons = {one.engine: one.excluded for one in why.placed.considered if one.excluded}
    assert reasons == {"engine/p0": "its role is prefill", "engine/p1": "its role is prefill"}


def test_a_prompt_that_is_long_for_the_best_decode_engine_goes_to_the_best_prefill_engine():
    router = both()
    follow(router, "engine/p1", stored(PROMPT[: 8 * 4]))
    follow(router, "engine/d0", stored(PROMPT[: 8 * 2]))
    answer = placed(router, asked(1, TOKENS, PROMPT, local_tokens=100))
    assert (answer.engine, answer.role, answer.matched) == ("engine/p1", "prefill", 64)


def test_a_prompt_of_which_a_decode_engine_has_enough_stays_there():
    router = both()
    follow(router, "engine/d1", stored(PROMPT[: 8 * 5]))
    answer = placed(router, asked(1, TOKENS, PROMPT, local_tokens=80))
    assert (answer.engine, answer.role, answer.matched) == ("engine/d1", "decode", 80)
    longer = placed(router, asked(2, TOKENS, PROMPT, local_tokens=79))
    assert longer.role == "prefill"


def test_who_answers_may_be_chosen_and_where_the_prompt_is_computed_is_not():
    router = both()
    answer = placed(router, asked(1, TOKENS, PROMPT, local_tokens=10, engine="engine/d1", rank=0))
    assert answer.role == "prefill"
    second = asked(2, TOKENS, PROMPT, role="decode", engine="engine/d1", rank=0)
    assert placed(router, second).engine == "engine/d1"


def test_without_prefill_engines_a_long_prompt_is_computed_where_it_is_answered():
    router = core()
    router.handle(seen("engine/d0", role="decode"))
    assert placed(router, asked(1, TOKENS, PROMPT, local_tokens=10)).engine == "engine/d0"


def test_engines_that_do_all_take_prompts_of_any_length():
    router = core()
    router.handle(seen("engine/p0", role="prefill"))
    router.handle(seen("engine/0"))
    assert placed(router, asked(1, TOKENS, PROMPT, local_tokens=10)).engine == "engine/0"


def test_a_prompt_in_text_is_long():
    router = both()
    assert placed(router, asked(1, 0, local_tokens=10)).role == "prefill"


def test_an_answer_goes_by_load_whatever_is_cached():
    router = both()
    follow(router, "engine/d0", stored(PROMPT))
    router.handle(load("engine/d0", running=1, used=5))
    router.handle(load("engine/d1", running=1, used=4))
    answer = placed(router, asked(1, TOKENS, PROMPT, role="decode"))
    assert (answer.engine, answer.matched) == ("engine/d1", 0)
    assert [one.cost for one in answer.considered if one.engine == "engine/d1"] == [4 + 10]


def test_a_transferred_prompt_is_nothing_to_prefill():
    router = both()
    effects = router.handle(asked(1, TOKENS, PROMPT, role="decode", random=1))
    (made,) = published(effects, "placements")
    assert isinstance(made, PlacementMade)
    assert made.matched == TOKENS
    rank = router.state.workers.engines[made.engine].ranks[0]
    assert (rank.prefill_tokens, rank.blocks, rank.requests) == (0, 10, 1)
    router.handle(events.Ended("r1", 0.0))
    assert (rank.blocks, rank.requests) == (0, 0)


def test_a_session_is_at_home_where_its_answers_are():
    router = both("session")
    first = placed(router, asked(1, TOKENS, PROMPT, local_tokens=10, session="s"))
    assert first.role == "prefill"
    home = placed(router, asked(2, TOKENS, PROMPT, role="decode", session="s")).engine
    for number in range(3, 8):
        where = placed(router, asked(number, TOKENS, PROMPT, session="s", random=number))
        assert (where.engine, where.policy) == (home, "session")


def test_one_that_waits_for_a_prefill_engine_stops_nobody_else():
    router = both(queue_threshold=0.1)
    for number in (1, 2):
        placed(router, asked(number, TOKENS, PROMPT, local_tokens=10))
    assert router.handle(asked(3, TOKENS, PROMPT, local_tokens=10)) == []
    placed(router, asked(4, TOKENS, role="decode"))
    effects = router.handle(events.Started("r1", 1.0))
    assert [effect.ask for effect in effects if isinstance(effect, events.Reply)] == [3]


def test_a_role_that_nobody_ready_has():
    router = core()
    router.handle(seen("engine/d0", role="decode"))
    answer = refused(router, asked(1, role="prefill"))
    assert (answer.code, answer.message) == (
        "not_ready",
        "no engine of 'm' is ready for role prefill",
    )

"""LiveCore: all or nothing, kept before it is used, remembered, undone."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config.live import (
    AskAdopt,
    ChangeAsked,
    Effect,
    Judged,
    Keep,
    Kept,
    LiveCore,
    Replaced,
    Reply,
    RollBackAsked,
    State,
    Tell,
)
from schemas.config import Adopt, Changed, ConfigChanged, Setting
from schemas.refusal import Code, Refusal

RUNNING = ["gateway/0", "monitor/0", "router/0", "router/1"]
DOCUMENT = {"router": {"count": 2, "settings": {"host_weight": 0.5}}, "log": {"level": "info"}}
OPTIONS = {
    "router/0": {"host_weight": 0.5},
    "router/1": {"host_weight": 0.5},
    "router/2": {"host_weight": 0.5},  # is down
    "monitor/0": {},
    "gateway/0": {},
}


def core() -> LiveCore:
    document, options = msgspec.to_builtins(DOCUMENT), msgspec.to_builtins(OPTIONS)
    return LiveCore(State(1, document, options, []))


def asked(ask: int = 1, running: list[str] = RUNNING, /, **changes: Setting) -> ChangeAsked:
    paths = {path.replace("__", "."): value for path, value in changes.items()}
    return ChangeAsked(ask, paths, "cli/7", 9.0, running)


def read(value: Setting) -> Setting:
    """As an actor reads a number that came as text."""
    return float(value) if isinstance(value, str) and value[0].isdigit() else value


def agreed(live: LiveCore, effects: list[Effect]) -> list[Effect]:
    """What follows where all who are asked agree."""
    last: list[Effect] = []
    for effect in effects:
        assert isinstance(effect, AskAdopt)
        assert effect.adopt.check
        options = {name: read(value) for name, value in effect.adopt.options.items()}
        last = live.handle(Judged(effect.actor, effect.adopt.version, options))
    return last


def done(live: LiveCore, event: ChangeAsked | RollBackAsked) -> list[Effect]:
    (keep,) = agreed(live, live.handle(event))
    assert isinstance(keep, Keep)
    return live.handle(Kept(keep.version))


def refusal(effects: list[Effect]) -> Refusal:
    (reply,) = effects
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, Refusal)
    return reply.message


def test_it_is_judged_kept_used_and_announced_in_this_order():
    live = core()
    effects = live.handle(asked(router__temperature="0.2"))
    assert effects == [
        AskAdopt(router, Adopt(2, {"temperature": "0.2"}, check=True))
        for router in ("router/0", "router/1")
    ]
    (keep,) = agreed(live, effects)
    assert isinstance(keep, Keep)
    assert keep.document["router"]["settings"] == {"host_weight": 0.5, "temperature": 0.2}
    assert keep.document["origins"]["router.temperature"]["kind"] == "live"
    # The one that is down starts with it.
    assert keep.actors["router/2"] == {"host_weight": 0.5, "temperature": 0.2}
    assert keep.actors["gateway/0"] == {}
    assert live.state.version == 1
    change = ConfigChanged(2, [Changed("router.temperature", None, 0.2)], "cli/7", 9.0)
    assert live.handle(Kept(2)) == [
        AskAdopt("router/0", Adopt(2, {"temperature": 0.2}, check=False)),
        AskAdopt("router/1", Adopt(2, {"temperature": 0.2}, check=False)),
        Tell(change),
        Reply(1, change),
    ]
    assert (live.state.version, live.state.history) == (2, [change])


def test_a_key_that_has_another_name_where_it_is_used():
    live = core()
    (keep,) = agreed(live, live.handle(asked(disaggregation__fallback="refuse")))
    assert isinstance(keep, Keep)
    assert keep.document["disaggregation"] == {"fallback": "refuse"}
    assert keep.actors["gateway/0"] == {"prefill_fallback": "refuse"}


def test_several_sections_at_once_and_the_log_level_for_everybody():
    live = core()
    effects = live.handle(asked(log__level="debug", health__limits__stopped=5))
    assert {e.actor: e.adopt.options for e in effects if isinstance(e, AskAdopt)} == {
        "gateway/0": {"log_level": "debug"},
        "monitor/0": {"log_level": "debug", "limits.stopped": 5},
        "router/0": {"log_level": "debug"},
        "router/1": {"log_level": "debug"},
    }
    (keep,) = agreed(live, effects)
    assert isinstance(keep, Keep)
    assert keep.document["health"] == {"limits": {"stopped": 5}}
    assert keep.document["log"] == {"level": "debug"}
    assert keep.actors["monitor/0"] == {"limits": {"stopped": 5}}
    assert keep.actors["router/0"] == {"host_weight": 0.5}


@pytest.mark.parametrize(
    ("code", "expected"),
    [("invalid", "invalid"), ("unknown_tag", "invalid"), ("deadline", "not_ready")],
)
def test_one_that_says_no_stops_all(code: Code, expected: Code):
    live = core()
    live.handle(asked(router__temperature=-1))
    said = refusal(live.handle(Judged("router/0", 2, {}, code, "temperature is -1: …")))
    assert (said.code, said.message) == (expected, "temperature is -1: …")
    assert live.handle(Judged("router/1", 2, {"temperature": -1})) == []
    assert (live.state.version, live.state.pending) == (1, None)


def test_a_no_is_said_of_the_path_that_was_given():
    live = core()
    live.handle(asked(disaggregation__fallback="never"))
    said = refusal(live.handle(Judged("gateway/0", 2, {}, "invalid", "prefill_fallback is …")))
    assert said.message == "disaggregation.fallback is …"


def test_who_ends_meanwhile_has_no_say():
    live = core()
    live.handle(asked(router__temperature=1))
    live.handle(Judged("router/0", 2, {}, "died", "it ended"))
    (keep,) = live.handle(Judged("router/1", 2, {"temperature": 1.0}))
    assert isinstance(keep, Keep)
    assert [e.actor for e in live.handle(Kept(2)) if isinstance(e, AskAdopt)] == ["router/1"]


def test_nobody_is_left_to_judge_it():
    live = core()
    live.handle(asked(health__canary_idle=1))
    assert refusal(live.handle(Judged("monitor/0", 2, {}, "died", "gone"))).code == "not_ready"
    none = live.handle(asked(2, ["gateway/0"], router__policy="kv"))
    assert refusal(none).message.startswith("router.policy: no router is there to judge it")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("engine.model", "can change only with a start"),
        ("kv_events.port", "can change only with a start"),
        ("ruoter.policy", "is no setting: did you mean router.policy?"),
        ("nothing", "is no setting: what can change begins with router., health."),
        ("log.format", "cannot change while it runs: log.level can"),
        ("disaggregation.port", "disaggregation.local_prefill_tokens, disaggregation.fallback can"),
        ("gateway.prefill_fallback", "is no setting: did you mean disaggregation.fallback?"),
        ("gateway.local_prefill_tokens", "did you mean disaggregation.local_prefill_tokens?"),
        ("router", "name a key of it, such as router.KEY=VALUE"),
    ],
)
def test_what_cannot_change_is_refused_with_the_reason(path: str, text: str):
    said = refusal(core().handle(ChangeAsked(1, {path: 1}, "cli/7", 9.0, RUNNING)))
    assert said.code == "invalid"
    assert path in said.message
    assert text in said.message


def test_what_is_not_kept_is_used_by_nobody():
    live = core()
    agreed(live, live.handle(asked(router__temperature=1)))
    said = refusal(live.handle(Kept(2, "the disk is full")))
    assert said.message == "it could not be kept: the disk is full"
    assert live.state.version == 1


def test_one_at_a_time():
    live = core()
    live.handle(asked(router__temperature=1))
    assert refusal(live.handle(asked(2, router__temperature=2))).code == "not_ready"


def test_scaling_comes_first():
    live = core()
    live.handle(asked(router__temperature=1))
    change = ConfigChanged(2, [], "supervisor/0", 9.0, "more: router/3")
    effects = live.handle(Replaced(2, {"router": {}}, {"router/3": {}}, change))
    assert refusal(effects[:1]).message == "meanwhile: more: router/3"
    assert effects[1:] == [Tell(change)]
    assert live.handle(Judged("router/0", 2, {"temperature": 1.0})) == []


def test_a_version_that_is_not_remembered():
    live = core()
    done(live, asked(router__temperature=1))
    back = live.handle(RollBackAsked(2, 9, "cli/7", 9.0, RUNNING))
    assert refusal(back).message == "version 9 is not remembered: 1 to 2 are"


values: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["router.temperature", "router.host_weight", "gateway.max_inflight"]),
    st.one_of(st.none(), st.floats(1, 9)),
    min_size=1,
)


@given(st.lists(values, min_size=1, max_size=8), st.data())
def test_any_version_can_be_had_again(changes: list[dict[str, Any]], data: st.DataObject):
    live = core()
    seen = {1: deepcopy(live.state)}
    for change in changes:
        done(live, ChangeAsked(1, change, "cli/7", 9.0, RUNNING))
        seen[live.state.version] = deepcopy(live.state)
    version = data.draw(st.sampled_from(sorted(seen)))
    back = RollBackAsked(2, version, "cli/7", 9.0, RUNNING)
    if version != live.state.version:
        done(live, back)
    mine, then = live.state.document, seen[version].document
    settings = [{**d.get("router", {}).get("settings", {})} for d in (mine, then)]
    assert settings[0] == settings[1]
    assert mine.get("gateway", {}) == then.get("gateway", {})
    assert live.state.actors == seen[version].actors

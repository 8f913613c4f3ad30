"""Settings: checked, all or nothing, with sentences that help; and changed live."""

from __future__ import annotations

import pytest

from actors.router import events
from actors.router.settings import InvalidSetting, Settings, parse, plain
from schemas.placement import Tuned
from schemas.refusal import Refusal
from tests.actors.router.parts import asked, core, placed, replies, seen


def tune(router, **settings):
    return replies(router.handle(events.TuneAsked(99, settings, 0.0)))[99]


def test_the_defaults_can_be_given_back():
    assert parse(plain(Settings())) == Settings()


def test_text_may_stand_for_numbers():
    given = parse({"temperature": "0.5", "queue_limit": "7", "queue_threshold": "none"})
    assert (given.temperature, given.queue_limit, given.queue_threshold) == (0.5, 7, None)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("temperature", -1, "temperature is -1: expected a number >= 0.0"),
        ("temperature", "hot", "temperature is 'hot': expected a number"),
        ("temperature", float("nan"), "temperature is nan: expected a number >= 0.0"),
        ("queue_limit", 1.5, "queue_limit is 1.5: expected a whole number"),
        ("queue_threshold", 0, "queue_threshold is 0: expected a number > 0.0"),
        ("policy", "best", "policy is 'best': choose one of kv, approximate, least-loaded"),
        ("polcy", "kv", "polcy is no setting of the router; it has policy, device_weight"),
    ],
)
def test_what_cannot_be_is_said(name, value, text):
    with pytest.raises(InvalidSetting) as caught:
        parse({name: value})
    assert str(caught.value).startswith(text)


def test_a_setting_changes_live():
    router = core()
    router.handle(seen("engine/0"))
    tuned = tune(router, policy="round-robin", temperature=0.5)
    assert isinstance(tuned, Tuned)
    assert tuned.version == 1
    assert (tuned.settings["policy"], tuned.settings["temperature"]) == ("round-robin", 0.5)
    assert placed(router, asked(1)).policy == "round-robin"


def test_an_empty_change_says_what_is():
    router = core(host_weight=0.5)
    tuned = tune(router)
    assert isinstance(tuned, Tuned)
    assert (tuned.version, tuned.settings) == (0, plain(Settings(host_weight=0.5)))


@pytest.mark.parametrize("wrong", [{"disk_weight": -1}, {"nothing": 1}, {"index_blocks": 5}])
def test_all_or_nothing(wrong):
    router = core()
    before = router.state.settings
    refusal = tune(router, policy="random", **wrong)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid"
    assert next(iter(wrong)) in refusal.message
    assert router.state.settings == before
    assert router.state.version == 0

"""Settings: checked, all or nothing, with sentences that help; and changed live."""

from __future__ import annotations

import pytest

from actors.router import events
from actors.router.settings import InvalidSetting, Settings, check_live, given, parse, plain
from tests.actors.router.parts import asked, core, placed, seen


def test_the_defaults_can_be_given_back():
    assert parse(plain(Settings())) == Settings()


def test_text_may_stand_for_numbers():
    given = parse({"temperature": "0.5", "queue_limit": "7", "queue_threshold": "none"})
    assert (given.temperature, given.queue_limit, given.queue_threshold) == (0.5, 7, None)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("temperature", -1, "temperature is -1: write a number of at least 0"),
        ("temperature", "hot", "temperature is 'hot': write a number"),
        ("temperature", float("nan"), "temperature is nan: write a number of at least 0"),
        ("queue_limit", 1.5, "queue_limit is 1.5: write a whole number"),
        ("queue_threshold", 0, "queue_threshold is 0: write a number above 0"),
        ("policy", "best", "policy is 'best': choose one of kv, approximate, least-loaded"),
        ("polcy", "kv", "polcy is no setting of the router: did you mean policy?"),
    ],
)
def test_what_cannot_be_is_said(name, value, text):
    with pytest.raises(InvalidSetting) as caught:
        parse({name: value})
    assert str(caught.value).startswith(text)


def test_a_setting_changes_live():
    router = core()
    router.handle(seen("engine/0"))
    router.handle(events.Retuned(Settings(policy="round-robin"), 0.0))
    assert placed(router, asked(1)).policy == "round-robin"


def test_what_only_a_start_takes_does_not_change():
    with pytest.raises(InvalidSetting, match="index_blocks can only be set when the router starts"):
        check_live(Settings(), Settings(index_blocks=5))


def test_none_stands_for_the_default_in_a_change():
    assert given({"temperature": None, "policy": "random"}) == {
        "temperature": 0.0,
        "policy": "random",
    }

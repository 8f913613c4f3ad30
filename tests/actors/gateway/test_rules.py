"""What of a gateway can change while it runs."""

from __future__ import annotations

import pytest

from actors.gateway.core import GatewayCore
from actors.gateway.events import Retuned
from actors.gateway.options import Options
from actors.gateway.rules import Rules, changed


def test_numbers_may_come_as_text_and_none_brings_the_default_back():
    live = changed(Options(max_inflight=7), {"migration_limit": "0", "max_inflight": None})
    assert (live.migration_limit, live.max_inflight) == (0, 4096)
    assert live.rules() == Rules(migration_limit=0)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("max_inflight", 0, "max_inflight is 0: write a whole number of at least 1"),
        ("migration_wait", "long", "migration_wait is 'long': write a number"),
        ("port", 1, "port can only be set when a gateway starts"),
    ],
)
def test_what_cannot_be_is_said(name: str, value: object, text: str):
    with pytest.raises(ValueError, match=text):
        changed(Options(), {name: value})  # type: ignore[dict-item]


def test_the_core_goes_by_the_new_rules_also_after_a_snapshot():
    core, other = GatewayCore(), GatewayCore()
    assert core.handle(Retuned(Rules(migration_limit=1))) == []
    other.restore(core.snapshot())
    assert other.state.rules == Rules(migration_limit=1)

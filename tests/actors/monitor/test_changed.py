"""What of a monitor can change while it runs."""

from __future__ import annotations

import pytest

from actors.monitor.core import MonitorCore
from actors.monitor.events import Retuned
from actors.monitor.options import Limits, Options, changed


def test_limits_change_by_name_and_none_brings_the_default_back():
    before = Options(limits=Limits(still=3.0), canary_idle=1.0)
    after = changed(before, {"limits.stopped": "5", "limits.still": None, "canary_idle": 0})
    assert after == Options(limits=Limits(stopped=5.0), canary_idle=0.0)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("limits.stopped", 0, "health.limits.stopped is 0: write a number above 0"),
        ("limits.stoped", 1, "health.limits.stoped: no such limit; there are stopped"),
        ("port", 1, "health.port can only be set when the monitor starts"),
    ],
)
def test_what_cannot_be_is_said(name: str, value: object, text: str):
    with pytest.raises(ValueError, match=text):
        changed(Options(), {name: value})  # type: ignore[dict-item]


def test_the_core_goes_by_the_new_limits_also_after_a_snapshot():
    core, other = MonitorCore(), MonitorCore()
    assert core.handle(Retuned(1.0, Limits(stopped=9.0), 2.0)) == []
    other.restore(core.snapshot())
    assert (other.state.limits, other.state.canary_idle) == (Limits(stopped=9.0), 2.0)

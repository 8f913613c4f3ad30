"""What verdicts mean for the machine."""

from __future__ import annotations

from typing import Any

import pytest

from actors.monitor.node import look
from actors.monitor.options import read_options
from schemas.health import Verdict

NEEDS = ("engine", "gateway")


def verdict(actor: str, condition: Any = "healthy", state: Any = "ready", age: float = 1.0):
    reason = "" if condition == "healthy" else "why"
    return Verdict(actor, 1, condition, reason, age, state)


def test_a_machine_is_ready_when_one_of_each_kind_is():
    assert not look([], NEEDS, 60).ready
    assert not look([verdict("engine/0")], NEEDS, 60).ready
    node = look([verdict("engine/0"), verdict("gateway/0")], NEEDS, 60)
    assert (node.ready, node.live, node.status, node.problems) == (True, True, "ok", [])


@pytest.mark.parametrize(
    ("condition", "usable"), [("busy", True), ("suspect", True), ("hung", False)]
)
def test_only_who_hangs_or_died_is_of_no_use(condition, usable):
    node = look([verdict("engine/0", condition), verdict("gateway/0")], NEEDS, 60)
    assert node.ready is usable
    assert node.live


def test_a_second_engine_keeps_it_ready():
    verdicts = [verdict("engine/0", "dead"), verdict("engine/1"), verdict("gateway/0")]
    node = look(verdicts, NEEDS, 60)
    assert (node.ready, node.status) == (True, "degraded")
    assert node.problems == ["engine/0 is dead: why"]


@pytest.mark.parametrize("state", ["starting", "draining", "stopped"])
def test_who_is_not_ready_cannot_be_used(state):
    node = look([verdict("engine/0", state=state), verdict("gateway/0")], NEEDS, 60)
    assert (node.ready, node.live, node.status) == (False, True, "unavailable")
    assert node.problems == ["no engine is ready"]


def test_a_new_machine_is_asked_for_only_when_nobody_mends_this_one():
    assert look([verdict("engine/0", "hung", age=59)], (), 60).live
    assert not look([verdict("engine/0", "hung", age=60)], (), 60).live
    assert look([verdict("engine/0", "dead", age=600)], (), 60).live
    assert not look([verdict("supervisor/0", "hung", age=0)], (), 60).live


@pytest.mark.parametrize(
    "raw", [{"prot": 1}, {"port": 70000}, {"limits": {"stopped": 0}}, {"canary_idle": "no"}]
)
def test_options_that_cannot_be_are_refused(raw):
    with pytest.raises(ValueError, match="monitor options"):
        read_options(raw)

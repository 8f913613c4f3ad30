"""`callboard why` of requests that ran on two engines."""

from __future__ import annotations

import pytest

from launch.cli.why import _text
from schemas.directory import Role
from schemas.placement import Decision, Placed


@pytest.mark.parametrize(
    ("request_id", "role", "lines"),
    [
        (
            "r.0.gateway/0.1",
            "prefill",
            [
                "placed on engine/x, rank 0, for its prompt, by policy kv",
                "48 tokens of the prompt are in its cache",
            ],
        ),
        (
            "r.0.gateway/0.1:decode",
            "decode",
            [
                "placed on engine/x, rank 0, for its answer, by policy kv",
                "its prompt was computed elsewhere",
            ],
        ),
        (
            "r.0.gateway/0.1",
            "decode",
            [
                "placed on engine/x, rank 0, for all of it, by policy kv",
                "48 tokens of the prompt are in its cache",
            ],
        ),
        (
            "r.0.gateway/0.1",
            "aggregated",
            [
                "placed on engine/x, rank 0, by policy kv",
                "48 tokens of the prompt are in its cache",
            ],
        ),
    ],
)
def test_it_says_for_what(request_id: str, role: Role, lines: list[str]) -> None:
    placed = Placed("engine/x", 1, 0, policy="kv", matched=48, role=role)
    shown = _text("router/0", Decision(request_id, 1.0, "m", 100, 6, placed))
    assert shown.splitlines()[2:] == lines

"""Records become rows with names, and the rows of one request are found."""

from __future__ import annotations

from typing import Any

import msgspec

from bus.journal.trail import Trail
from bus.journal.view import Row, as_json, brief
from bus.journal.view import rows as rows_of
from tests.bus.journal.test_replay import recorded

REQUEST = "41f2"


def row(what: str, name: str, data: Any, **more: Any) -> Row:
    return Row("gateway/0", 1, 0, 0.0, 0.0, what, name, data=data, **more)


def test_events_and_effects_have_the_names_of_their_fields(tmp_path):
    found = list(rows_of(recorded(tmp_path, 1, 2)))
    assert [
        (one.what, one.name, one.data) for one in found if one.what in ("event", "effects")
    ] == [
        ("event", "Add", {"number": 1}),
        ("effects", "Sum", [{"Sum": {"total": 1}}]),
        ("event", "Add", {"number": 2}),
        ("effects", "Sum", [{"Sum": {"total": 3}}]),
    ]
    assert msgspec.json.decode(as_json(found[-1]))["name"] == "Sum"


def test_times_choose(tmp_path):
    life = recorded(tmp_path, 1, 2)
    found = list(rows_of(life))
    assert list(rows_of(life, until=found[0].time - 1)) == []
    assert list(rows_of(life, since=found[-1].time + 1)) == []


def test_a_request_is_followed_by_what_actors_call_it():
    trail = Trail(f"cmpl-{REQUEST}")
    submit = {"choice": 3, "request_id": f"{REQUEST}.0.gateway/1.3"}
    mine = [
        row("event", "Submit", submit),
        row("effects", "Ask", [{"Ask": {"choice": 3}}]),
        row("sent", "Place", {"request_id": REQUEST}, peer="router/0", correlation=9, kind="ask"),
        row("received", "Placed", {"engine": "e"}, peer="router/0", correlation=9, kind="answer"),
        row("event", "Placed", {"choice": 3}),
        row(
            "sent", "Generate", {"request_id": f"cmpl-{REQUEST}-0"}, peer="engine/0", correlation=7
        ),
        row("received", "Step", {"deltas": [[7, [1]]]}, peer="engine/0", kind="item"),
    ]
    others = [
        row("event", "Submit", {"choice": 4, "request_id": f"{REQUEST}0.0.gateway/1.4"}),
        row("event", "Placed", {"choice": 4}),
        row("received", "Placed", {"engine": "e"}, peer="router/1", correlation=9, kind="answer"),
        row("received", "Step", {"deltas": [[8, [1]]]}, peer="engine/0", kind="item"),
        row("note", "torn", "x"),
    ]
    assert [trail.takes(one) for one in mine] == [True] * len(mine)
    assert [trail.takes(one) for one in others] == [False] * len(others)


def test_a_line_says_what_is_set_and_stays_short():
    said = brief(row("event", "E", {"a": 1, "b": None, "c": "", "d": b"xyz", "e": 0.123456789}))
    assert said == "a=1 d=3 bytes e=0.123457"
    assert len(brief(row("note", "n", "x" * 100), 20)) == 20

"""What could hold a secret is left out of every message that has it."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from bus.journal.redact import ALWAYS
from schemas import MESSAGES

OPEN = [
    (tag, name)
    for tag, kind in MESSAGES.items()
    for name, hint in get_type_hints(kind).items()
    if hint in (dict[str, Any], dict[str, dict[str, Any]]) and name != "transfer"
]
"""Fields that hold whatever somebody wrote into a configuration. (What engines tell each other of
a transfer is made by connectors.)"""


@pytest.mark.parametrize(("tag", "name"), OPEN)
def test_a_configuration_is_in_no_journal(tag: str, name: str):
    hints = get_type_hints(MESSAGES[tag])
    made: dict[str, Any] = {
        field: {"engine/0": {"hf_token": "secret"}} if (tag, field) in OPEN else None
        for field in hints
    }
    given = MESSAGES[tag](**made)
    assert getattr(ALWAYS[tag](given, b""), name) == {}


def test_there_are_such_messages():
    assert {"Config", "SetConfig", "KeepConfig", "Resize"} <= {tag for tag, _ in OPEN}

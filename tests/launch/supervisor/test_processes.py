"""What a return code says about an end."""

from __future__ import annotations

import signal

import pytest

from launch.supervisor.processes import OUTSIDE, is_unexplained


@pytest.mark.parametrize(
    ("code", "unexplained"),
    [
        (0, False),
        (1, True),
        (OUTSIDE, False),
        (-signal.SIGKILL, False),
        (-signal.SIGTERM, False),
        (-signal.SIGSEGV, True),
        (-signal.SIGABRT, True),
        (-signal.SIGBUS, True),
    ],
)
def test_an_end_is_unexplained_unless_it_was_sent(code: int, unexplained: bool) -> None:
    assert is_unexplained(code) == unexplained

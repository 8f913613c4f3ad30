"""Ten times the capacity, for a short time: who is refused is told when to come back."""

from __future__ import annotations

import pytest

from bench.overload import FACTOR, measure


@pytest.mark.alone
def test_overload_refuses_and_goes_on(run_directory, tmp_path) -> None:
    found = measure(tmp_path, 12.0)
    assert found.capacity > 0
    # How late answers are, and how much memory a young process takes, says nothing in so short a
    # time on a busy machine; `python -m bench.overload` measures that.
    wrong = [text for text in found.failures() if "deadline" not in text]
    assert wrong == []
    for turn in found.turns[1:]:
        assert turn["served"] > 0
        assert turn["full"] > turn["served"]
        assert turn["offered"] > FACTOR / 2 * found.capacity

"""How long blocks are kept, as the decode side reckons it."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine.vllm.lease import KEY, Beats, Lease, lease_of, with_lease

times = st.floats(0, 1000)


def test_what_a_prefill_gives_carries_its_lease():
    before = time.time()
    lease = lease_of(with_lease({"do_remote_prefill": True}, 9.0))
    assert lease is not None
    assert lease.duration == 9
    assert before + 9 <= lease.until <= time.time() + 9


def test_without_a_bound_or_without_blocks_nothing_is_added():
    assert with_lease({"do_remote_prefill": True}, 0.0) == {"do_remote_prefill": True}
    assert with_lease({"do_remote_prefill": False}, 9.0) == {"do_remote_prefill": False}
    assert lease_of({}) is None


def test_what_is_no_lease_is_an_error():
    with pytest.raises(msgspec.ValidationError):
        lease_of({KEY: {"until": "soon"}})


def test_it_is_over_a_second_before_the_blocks_go():
    lease = Lease(until=100.0, duration=9.0)
    assert not lease.over(98.9)
    assert lease.over(99.1)


def test_a_heartbeat_lengthens_it():
    lease = Lease(until=100.0, duration=9.0)
    assert not lease.over(102.9, Beats(98.0, 98.0))  # 6 s more from then on
    assert lease.over(103.1, Beats(98.0, 98.0))


def test_a_heartbeat_after_the_end_brings_nothing_back():
    lease = Lease(until=100.0, duration=9.0)
    assert lease.over(100.5, Beats(100.2, 100.2))
    assert lease.over(108.5, Beats(96.0, 96.0).then(108.0))  # stopped between the two


@given(
    until=times,
    beats=st.lists(times, max_size=6).map(sorted),
    now=times,
    duration=st.floats(1, 60),
)
def test_it_is_never_thought_longer_than_the_prefill_side_keeps_them(
    until: float, beats: list[float], now: float, duration: float
):
    kept_until, said = until, None
    for beat in beats:
        if beat < kept_until:  # else they are gone, and nothing brings them back
            kept_until = max(kept_until, beat + duration * 2 // 3)
        said = Beats(beat, beat) if said is None else said.then(beat)
    if now >= kept_until:
        assert Lease(until, duration).over(now, said)

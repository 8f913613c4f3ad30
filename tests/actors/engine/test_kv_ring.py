from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.engine.kv_ring import Ring


@given(
    gaps=st.lists(st.integers(1, 5), max_size=60),
    sizes=st.lists(st.integers(0, 40), min_size=60, max_size=60),
    most=st.integers(0, 30),
    most_bytes=st.integers(0, 400),
    wanted=st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(1, 40)),
)
def test_it_keeps_the_newest_within_both_bounds(gaps, sizes, most, most_bytes, wanted):
    ring, sequence, all_batches = Ring(most, most_bytes), 0, []
    for gap, size in zip(gaps, sizes, strict=False):
        sequence += gap
        ring.append(sequence, bytes(size))
        all_batches.append((sequence, bytes(size)))
    kept = list(all_batches)
    while len(kept) > most or sum(len(payload) for _, payload in kept) > most_bytes:
        kept.pop(0)
    first, last, count = wanted
    expected = [batch for batch in kept if first <= batch[0] <= last][:count]
    assert ring.read(first, last, count) == expected
    assert ring.last() == (kept[-1][0] if kept else -1)

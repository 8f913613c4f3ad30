"""The approximate index: what was sent somewhere is believed to be there for a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.router.index.approximate import Approximate
from schemas.block_hash import pack


def test_a_placement_is_found_by_its_prefix():
    index = Approximate()
    index.placed("a", pack([1, 2, 3]), 0.0)
    index.placed("b", pack([1, 2]), 0.0)
    assert index.match(pack([1, 2, 3, 4]), 1.0) == {"a": 3, "b": 2}
    assert index.match(pack([2, 3]), 1.0) == {"a": 2, "b": 1}
    assert index.match(pack([9, 1]), 1.0) == {}


def test_entries_expire_and_reuse_refreshes_them():
    index = Approximate(ttl=10.0)
    index.placed("a", pack([1, 2]), 0.0)
    index.placed("a", pack([1]), 5.0)
    assert index.match(pack([1, 2]), 9.9) == {"a": 2}
    assert index.match(pack([1, 2]), 10.0) == {"a": 1}
    assert index.match(pack([1, 2]), 15.0) == {}
    assert len(index) == 0


def test_beyond_the_limit_the_least_recently_used_goes_and_a_prompt_loses_its_end_first():
    index = Approximate(max_blocks=4)
    index.placed("a", pack([1, 2, 3]), 0.0)
    index.placed("b", pack([7, 8]), 1.0)
    assert (len(index), index.evicted) == (4, 1)
    assert index.match(pack([1, 2, 3]), 1.0) == {"a": 2}
    assert index.match(pack([7, 8]), 1.0) == {"b": 2}


def test_a_prompt_larger_than_the_limit_keeps_its_beginning():
    index = Approximate(max_blocks=4)
    index.placed("a", pack(range(10)), 0.0)
    assert index.match(pack(range(10)), 0.0) == {"a": 4}


def test_a_rank_that_is_forgotten_is_found_no_more_and_may_come_again():
    index = Approximate()
    index.placed("a", pack([1, 2]), 0.0)
    index.placed("b", pack([1]), 0.0)
    index.forget("a")
    index.forget("never seen")
    assert index.match(pack([1, 2]), 0.0) == {"b": 1}
    index.placed("a", pack([1]), 0.0)
    assert index.match(pack([1, 2]), 0.0) == {"a": 1, "b": 1}


def test_expiry_is_bounded_and_what_it_leaves_is_not_found():
    index = Approximate(ttl=10.0)
    index.placed("a", pack(range(20_000)), 0.0)
    assert index.match(pack([0]), 10.0) == {}
    assert len(index) > 10_000
    while len(index):
        before = len(index)
        index.expire(10.0)
        assert len(index) >= before - 5000


prompts = st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True)
placements = st.lists(st.tuples(st.sampled_from("abc"), prompts, st.floats(0, 8)), max_size=30)


@given(placements=placements, asked=prompts)
def test_it_says_what_a_plain_record_of_placements_says(placements, asked):
    index = Approximate(ttl=10.0)
    last: dict[tuple[str, int], float] = {}
    now = 0.0
    for rank, prompt, wait in placements:
        now += wait
        index.placed(rank, pack(prompt), now)
        last.update({(rank, block): now for block in prompt})
        expected = {}
        for name in "abc":
            count = 0
            for block in asked:
                if (name, block) not in last or last[name, block] + 10.0 <= now:
                    break
                count += 1
            if count:
                expected[name] = count
        assert index.match(pack(asked), now) == expected

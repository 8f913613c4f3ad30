"""The approximate index: what was sent somewhere is believed to be there for a while."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from time import perf_counter
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from actors.router.index import approximate
from actors.router.index.approximate import Approximate, Guess, Guesses, RankId
from schemas.block_hash import pack, unpack

A, B, C = (("engine/0", 1, rank) for rank in range(3))


def test_a_placement_is_found_by_its_prefix():
    index = Approximate()
    index.placed(A, pack([1, 2, 3]), 0.0)
    index.placed(B, pack([1, 2]), 0.0)
    assert index.match(pack([1, 2, 3, 4]), 1.0) == {A: 3, B: 2}
    assert index.match(pack([2, 3]), 1.0) == {A: 2, B: 1}
    assert index.match(pack([9, 1]), 1.0) == {}


def test_entries_expire_and_reuse_refreshes_them():
    index = Approximate(ttl=10.0)
    index.placed(A, pack([1, 2]), 0.0)
    index.placed(A, pack([1]), 5.0)
    assert index.match(pack([1, 2]), 9.9) == {A: 2}
    assert index.match(pack([1, 2]), 10.0) == {A: 1}
    assert index.match(pack([1, 2]), 15.0) == {}
    assert len(index) == 0


def test_beyond_the_limit_the_least_recently_used_goes_and_a_prompt_loses_its_end_first():
    index = Approximate(max_blocks=4)
    index.placed(A, pack([1, 2, 3]), 0.0)
    index.placed(B, pack([7, 8]), 1.0)
    assert (len(index), index.evicted) == (4, 1)
    assert index.match(pack([1, 2, 3]), 1.0) == {A: 2}
    assert index.match(pack([7, 8]), 1.0) == {B: 2}


def test_a_prompt_larger_than_the_limit_keeps_its_beginning():
    index = Approximate(max_blocks=4)
    index.placed(A, pack(range(10)), 0.0)
    assert index.match(pack(range(10)), 0.0) == {A: 4}


def test_a_rank_is_believed_to_hold_what_its_cache_has_room_for():
    index = Approximate()
    index.placed(A, pack([1, 2, 3]), 0.0, room=4)
    index.placed(B, pack([1, 2, 3]), 0.0, room=100)
    for rank in (A, B):
        index.placed(rank, pack([7, 8]), 1.0, room=4 if rank is A else 100)
    assert index.match(pack([1, 2, 3]), 1.0) == {A: 2, B: 3}
    assert (len(index), index.evicted) == (9, 1)
    index.placed(A, pack(range(10, 16)), 2.0, room=4)
    assert index.match(pack([7]), 2.0) == {B: 1}
    assert index.match(pack(range(10, 16)), 2.0) == {A: 4}


def test_the_limit_of_all_takes_the_oldest_of_any_rank():
    index = Approximate(max_blocks=5)
    index.placed(A, pack([1, 2]), 0.0)
    index.placed(B, pack([3, 4]), 1.0)
    index.placed(A, pack([1]), 2.0)
    index.placed(C, pack([5, 6, 7]), 3.0)
    assert (len(index), index.evicted) == (5, 2)
    found = [index.match(pack([n]), 3.0) for n in range(1, 8)]
    assert found == [{A: 1}, {}, {B: 1}, {}, {C: 1}, {C: 1}, {C: 1}]


def test_a_rank_that_is_forgotten_is_found_no_more_and_may_come_again():
    index, next_life = Approximate(), ("engine/0", 2, 0)
    index.placed(A, pack([1, 2]), 0.0)
    index.placed(B, pack([1]), 0.0)
    index.placed(next_life, pack([1]), 0.0)
    index.forget("engine/0", 1)
    index.forget("never seen", 9)
    assert index.match(pack([1, 2]), 0.0) == {next_life: 1}
    index.placed(A, pack([1]), 0.0)
    assert index.match(pack([1, 2]), 0.0) == {A: 1, next_life: 1}


def test_expiry_is_bounded_and_what_it_leaves_is_not_found():
    index = Approximate(ttl=10.0)
    index.placed(A, pack(range(20_000)), 0.0)
    assert index.match(pack([0]), 10.0) == {}
    assert len(index) > 10_000
    while len(index):
        before = len(index)
        index.expire(10.0)
        assert len(index) >= before - 5000


prompts = st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True)
placements = st.lists(st.tuples(st.sampled_from([A, B, C]), prompts, st.floats(0, 8)), max_size=30)


@given(placements=placements, asked=prompts)
def test_it_says_what_a_plain_record_of_placements_says(placements, asked):
    index = Approximate(ttl=10.0)
    last: dict[tuple[RankId, int], float] = {}
    now = 0.0
    for rank, prompt, wait in placements:
        now += wait
        index.placed(rank, pack(prompt), now)
        last.update({(rank, block): now for block in prompt})
        expected = {}
        for name in (A, B, C):
            count = 0
            for block in asked:
                if (name, block) not in last or last[name, block] + 10.0 <= now:
                    break
                count += 1
            if count:
                expected[name] = count
        assert index.match(pack(asked), now) == expected
        copy = copied(*index.cut())
        assert whole(copy) == whole(index)
        assert copy.match(pack(asked), now) == expected


def copied(guesses: Guesses, pieces: Iterable[Guess]) -> Approximate:
    copy = Approximate(ttl=10.0, max_blocks=40)
    copy.restore(guesses, pieces)
    return copy


def whole(index: Approximate) -> tuple[Guesses, list[tuple[int, list[tuple[int, int]]]]]:
    """All of it, in an order of its own."""
    guesses, pieces = index.cut()
    entries: dict[int, list[tuple[int, int]]] = {}
    for one in pieces:
        some = zip(unpack(one.stamps), unpack(one.blocks), strict=True)
        entries.setdefault(one.rank, []).extend(some)
    return guesses, [(rank, sorted(some)) for rank, some in sorted(entries.items())]


changes = st.lists(
    st.tuples(
        st.sampled_from(["placed", "placed", "placed", "forget", "expire", "piece"]),
        st.sampled_from([A, B, C]),
        st.lists(st.integers(0, 60), min_size=1, max_size=30, unique=True),
        st.floats(0, 4),
    ),
    max_size=30,
)


@given(before=changes, after=changes)
def test_what_is_told_is_of_the_moment_of_the_cut(before, after):
    index, now = Approximate(ttl=10.0, max_blocks=40), 0.0

    def happen(what: str, rank: RankId, prompt: list[int]) -> None:
        if what == "placed":
            index.placed(rank, pack(prompt), now, room=25)
        elif what == "forget":
            index.forget(rank[0], rank[1])
        else:
            index.expire(now)

    with mock.patch.object(approximate, "PIECE", 3):
        for what, rank, prompt, wait in before:
            now += wait
            happen(what, rank, prompt)
        then = whole(index)
        guesses, pieces = index.cut()
        taken: list[Guess] = []
        for what, rank, prompt, wait in after:
            now += wait
            if what == "piece":
                taken += islice(pieces, 1)
            else:
                happen(what, rank, prompt)
        assert whole(copied(guesses, [*taken, *pieces])) == then


def test_a_placement_of_400_blocks_takes_well_under_a_millisecond():
    """The router answers others meanwhile. A tenth of this on a quiet machine."""
    index, best = Approximate(), 1.0
    for number in range(50):
        packed = pack(range(400 * number, 400 * number + 400))
        begin = perf_counter()
        index.placed(A, packed, 0.0)
        best = min(best, perf_counter() - begin)
    assert best < 0.001

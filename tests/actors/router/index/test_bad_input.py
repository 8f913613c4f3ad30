"""Bad input is refused with a sentence, and changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.router.index.index import Index
from schemas.block_hash import pack
from tests.actors.router.index.model import TABLES

numbers = st.integers() | st.sampled_from([-1, 1, 2**31, 2**32, 2**63, 2**64, 2**70, -(2**63)])


@pytest.fixture(params=TABLES)
def index(request):
    return Index(table=request.param)


@pytest.mark.parametrize("slot", [-1, 1, 7, 2**31, 2**70])
def test_a_slot_that_is_not_open(index, slot):
    index.open("engine/0", 1, 0)
    for call in (
        lambda: index.stored(slot, "device", pack([1])),
        lambda: index.removed(slot, "device", pack([1])),
        lambda: index.cleared(slot),
        lambda: index.close(slot),
        lambda: index.held(slot),
        lambda: index.owner(slot),
    ):
        with pytest.raises(ValueError, match=f"slot {slot} is not open"):
            call()
    assert len(index) == 0


def test_a_closed_slot(index):
    slot = index.open("engine/0", 1, 0)
    index.close(slot)
    with pytest.raises(ValueError, match="not open"):
        index.stored(slot, "device", pack([1]))


@pytest.mark.parametrize("length", [1, 7, 9, 1001])
def test_bytes_that_are_no_whole_number_of_hashes(index, length):
    slot = index.open("engine/0", 1, 0)
    for call in (
        lambda: index.stored(slot, "device", bytes(length)),
        lambda: index.removed(slot, "device", bytes(length)),
        lambda: index.match(bytes(length)),
    ):
        with pytest.raises(ValueError, match=r"bytes|holder|tier"):
            call()
    assert (len(index), index.held(slot)["device"]) == (0, 0)


@pytest.mark.parametrize("table", TABLES)
@given(holder=numbers, tier=numbers, packed=st.binary(max_size=40))
def test_a_table_takes_good_arguments_and_raises_at_others(table, holder, tier, packed):
    made = table(max_blocks=100)
    assert made.take(5) == 0
    good = holder == 0 and 0 <= tier < 4 and len(packed) % 8 == 0
    for call in (made.add, made.remove):
        if good:
            call(holder, tier, packed)
            continue
        with pytest.raises(ValueError, match=r"bytes|holder|tier"):
            call(holder, tier, packed)
    assert made.blocks == 0
    if len(packed) % 8:
        with pytest.raises(ValueError, match=r"bytes|holder|tier"):
            made.match(packed)
    else:
        assert made.match(packed) == {}


@pytest.mark.parametrize("wrong", ["text", 1.5, None, [1]])
def test_a_table_takes_no_other_types(wrong):
    for table in TABLES:
        made = table(max_blocks=100)
        made.take(0)
        for call in (
            lambda made=made: made.add(wrong, 0, b""),
            lambda made=made: made.add(0, wrong, b""),
            lambda made=made: made.add(0, 0, wrong),
            lambda made=made: made.remove(0, 0, wrong),
            lambda made=made: made.match(wrong),
            lambda made=made: made.retire(wrong),
        ):
            with pytest.raises(TypeError):
                call()


@pytest.mark.parametrize("view", [bytes, bytearray, memoryview, lambda b: memoryview(b"x" + b)[1:]])
def test_any_buffer_will_do_also_where_it_is_not_aligned(index, view):
    slot = index.open("engine/0", 1, 0)
    index.stored(slot, "device", view(pack([1, 2])))
    assert index.match(view(pack([1, 2, 3]))) == {slot: (2, 0, 0, 0)}

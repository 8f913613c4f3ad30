"""Batches of one turn go out in one message, which says the same as each of them would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.kv_events.run import MOST
from actors.kv_events.telling import Telling
from schemas.block_hash import pack
from schemas.kv import KvBeat, KvChange, KvChanged
from tests.actors.kv_events.model import BusReader

BEAT = KvBeat("engine/0", 5, 0, 0, 16, "callboard", *(0,) * 6, complete=True, blocks={})


def batch(sequence: int, *changes: KvChange, cleared: bool = False, life: int = 5) -> KvChanged:
    return KvChanged("engine/0", life, 0, sequence, cleared, list(changes))


def stored(*names: int) -> KvChange:
    return KvChange("stored", "device", pack(names))


def removed(*names: int) -> KvChange:
    return KvChange("removed", "device", pack(names))


def told(messages: list[KvChanged]) -> list[KvChanged]:
    said: list[KvChanged] = []
    telling = Telling(said.append)  # type: ignore[arg-type]
    for message in messages:
        telling.changed(message)
    telling.flush()
    return said


def test_batches_of_a_turn_are_one_message():
    joined = batch(9, stored(1, 2), removed(1), stored(1, 3))
    joined = KvChanged(*(getattr(joined, f) for f in joined.__struct_fields__[:6]), 3, 7)
    assert told([batch(7, stored(1)), batch(8, stored(2), removed(1)), batch(9, stored(1, 3))]) == [
        joined
    ]


def test_one_batch_stays_as_it_is():
    assert told([batch(7, stored(1))]) == [batch(7, stored(1))]


def test_a_clear_and_another_life_begin_a_message():
    said = told([batch(1), batch(2, cleared=True), batch(3), batch(4, cleared=True, life=6)])
    assert [(m.first, m.sequence, m.cleared) for m in said] == [
        (0, 1, False),
        (2, 3, True),
        (0, 4, True),
    ]


def test_what_else_is_said_keeps_its_place_and_messages_are_bounded():
    said: list[object] = []
    telling = Telling(said.append)
    for number in range(1, 2 * MOST + 2):
        telling.changed(batch(number))
    telling.say(BEAT)
    telling.flush()
    assert [getattr(m, "batches", None) for m in said[:3]] == [MOST, MOST, 1]
    assert said[3] is BEAT


CHANGES = st.lists(
    st.builds(
        lambda new, names: (stored if new else removed)(*names),
        st.booleans(),
        st.sets(st.integers(0, 9)),
    ),
    max_size=3,
)


@given(st.lists(st.tuples(CHANGES, st.booleans()), max_size=30))
def test_a_reader_of_joined_messages_holds_the_same(made):
    messages = [
        batch(number, *changes, cleared=cleared)
        for number, (changes, cleared) in enumerate(made, 1)
    ]
    apart, together = BusReader(), BusReader()
    for message in messages:
        apart.read(message)
    for message in told(messages):
        together.read(message)
    assert (together.held(), together.last) == (apart.held(), apart.last)

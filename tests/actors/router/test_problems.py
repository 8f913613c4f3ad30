"""What is wrong is said within 10 seconds, by name, and no longer than it is so."""

from __future__ import annotations

import pytest

from actors.router import events
from tests.actors.router.parts import (
    asked,
    beat,
    blocks,
    changed,
    core,
    follow,
    place,
    seen,
    stored,
)


def said(router, now):
    router.handle(events.Tick(now, 0))
    return router.state.problems


def healthy():
    router = core()
    router.handle(seen("engine/0", kv_publisher="callboard"))
    follow(router, "engine/0", stored(blocks(0)))
    return router


def beats(router, first, last, **changes):
    """One a second, with what was said after each."""
    told = []
    for second in range(first, last):
        router.handle(beat("engine/0", 0, now=float(second), **changes))
        told.append(said(router, float(second)))
    return told


def test_nothing_is_wrong_with_a_rank_that_is_followed():
    assert beats(healthy(), 0, 30) == [[]] * 30


def test_an_engine_without_events():
    router = core()
    router.handle(seen("engine/0"))
    assert said(router, 1.0) == [
        "engine/0 publishes no KV events: what it has cached is guessed from placements"
    ]
    router.handle(seen("engine/0", ready=False))
    assert said(router, 2.0) == []


def test_an_engine_without_prefix_caching():
    router = core()
    router.handle(seen("engine/0", prefix_caching=False))
    assert said(router, 1.0) == [
        "engine/0 has prefix caching off: what it is sent twice it computes twice"
    ]


def test_an_engine_with_vllms_own_publisher():
    router = healthy()
    router.handle(seen("engine/0", kv_publisher="vllm"))
    (text,) = beats(router, 1, 2)[0]
    assert text.startswith("engine/0 publishes by vLLM's own event publisher")
    (text,) = beats(healthy(), 1, 2, publisher="vllm")[0]
    assert text.startswith("engine/0 publishes by vLLM's own event publisher")


def test_a_rank_without_a_kv_event_actor():
    router = core()
    router.handle(seen("engine/0", 2, kv_publisher="callboard"))
    follow(router, "engine/0", rank=0)
    for second in range(1, 9):
        router.handle(beat("engine/0", 0, now=float(second)))
        told = said(router, float(second))
    assert told == ["rank 1 of engine/0 has no KvEventActor: what it has cached is not known"]


def test_a_kv_event_actor_that_is_gone_or_silent():
    router = healthy()
    assert said(router, 2.9) == []
    assert said(router, 4.0) == [
        "kv-events/0.0 is silent: what rank 0 of engine/0 has cached is not kept up to date"
    ]
    router.handle(events.SourceLost("kv-events/0.0", 1, 5.0))
    assert said(router, 6.0) == [
        "kv-events/0.0 is gone: what rank 0 of engine/0 has cached is not kept up to date"
    ]


def test_a_snapshot_that_does_not_come():
    router = healthy()
    router.handle(changed("engine/0", 5, now=1.0))
    told = beats(router, 2, 9)
    assert told[0] == []
    assert told[-1] == [
        "kv-events/0.0 gives no snapshot: what rank 0 of engine/0 has cached is known in part"
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"behind": 3}, "kv-events/0.0 does not keep up with rank 0 of engine/0"),
        ({"complete": False}, "kv-events/0.0 does not know all that rank 0 of engine/0 has cached"),
        (
            {"block_size": 32},
            (
                "kv-events/0.0 names blocks of 32 tokens, rank 0 of engine/0 has blocks of 16: "
                "nothing matches"
            ),
        ),
    ],
)
def test_what_beats_say(changes, text):
    router = healthy()
    assert beats(router, 1, 10, **changes)[-1] == [text]
    assert beats(router, 10, 12)[-1] == []


def test_orphans_that_grow():
    router = healthy()
    for second in range(1, 20):
        router.handle(beat("engine/0", 0, now=float(second), orphans=second))
        told = said(router, float(second))
        if second >= 10:
            assert told == [
                (
                    "kv-events/0.0 gets more and more blocks of rank 0 of engine/0 whose parents "
                    "it does not know"
                )
            ]
    assert beats(router, 20, 40, orphans=19)[-1] == []


def test_engines_of_one_model_with_different_block_sizes():
    router = healthy()
    router.handle(seen("engine/1", kv_publisher="", block_size=32, prefix_caching=False))
    told = beats(router, 1, 2)[0]
    assert told[-1].startswith("engines of 'm' have blocks of 16, 32 tokens")


def test_requests_with_another_block_size():
    router = healthy()
    place(router, asked(1, 100, blocks(0, 1), block_size=32, now=1.0))
    assert beats(router, 2, 3)[0] == [
        (
            "requests for 'm' come with blocks of 32 tokens, its engines have blocks of 16: "
            "nothing matches"
        )
    ]
    assert beats(router, 3, 70)[-1] == []


def test_an_index_that_is_full():
    router = core(index_blocks=10)
    router.handle(seen("engine/0", kv_publisher="callboard"))
    follow(router, "engine/0", stored(blocks(*range(20))))
    assert said(router, 1.0) == ["the index is full: 10 blocks are not enough, raise index_blocks"]


def test_policies_that_want_no_events_miss_none():
    router = core("least-loaded")
    router.handle(seen("engine/0"))
    assert said(router, 10.0) == []


def test_many_problems_are_cut_short():
    router = core()
    for n in range(80):
        router.handle(seen(f"engine/{n}"))
    told = said(router, 1.0)
    assert len(told) == 51
    assert told[-1] == "and 30 more like these"

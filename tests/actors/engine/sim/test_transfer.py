"""Simulated engines that read each other's KV blocks: whole, or not at all, and none is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from actors.engine.backend import InvalidRequest
from actors.engine.sim.backend import SimBackend
from schemas.generate import Delta, Generate
from tests.actors.engine.sim.requests import Ranked, generate
from tests.actors.engine.sim.test_backend import Heard

PROMPT = list(range(100))
FOR_ANOTHER = {"do_remote_decode": True, "do_remote_prefill": False}
SLOW = {"sim_speed": 1.0, "sim_kv_bandwidth": 1e6}
"""A transfer that does not end within a test."""


class Side:
    """One engine, and what it says."""

    def __init__(self, role: str, **flags: Any) -> None:
        self.heard = Heard()
        self.engine = SimBackend({"sim_speed": 0, "role": role} | flags)

    def used(self) -> int:
        used: int = self.heard.loads[-1].blocks_used
        return used

    def last(self, key: int) -> Delta:
        last: Delta = [d for step in self.heard.steps for own, d in step if own == key][-1]
        return last

    async def ended(self, key: int) -> None:
        await self.heard.until(lambda: key in self.heard.finished())

    async def free(self) -> None:
        await self.heard.until(lambda: self.used() == 0)


Scenario = Callable[[Side, Side], Awaitable[None]]


def between(
    scenario: Scenario,
    *,
    prefill: dict[str, Any] | None = None,
    decode: dict[str, Any] | None = None,
) -> None:
    async def main() -> None:
        sides = Side("prefill", **(prefill or {})), Side("decode", **(decode or {}))
        for side in sides:
            await side.engine.start(side.heard)
        try:
            async with asyncio.timeout(30):
                await scenario(*sides)
        finally:
            for side in sides:
                await side.engine.stop()

    asyncio.run(main())


async def computed(side: Side, key: int = 1, prompt: list[int] = PROMPT) -> dict[str, Any]:
    """The prompt is computed for another engine; what that must be given."""
    asked = generate(prompt, max_tokens=1, min_tokens=1, transfer=FOR_ANOTHER)
    side.engine.submit(key, key, asked)
    await side.ended(key)
    transfer = side.last(key).transfer
    assert transfer is not None
    return transfer


def answer(transfer: dict[str, Any] | None = None, tokens: int = 20) -> Generate:
    return generate(PROMPT, max_tokens=tokens, transfer=transfer)


def undisturbed(tokens: int = 20) -> list[int]:
    alone = Ranked()
    alone.add(1, generate(PROMPT, max_tokens=tokens))
    alone.run()
    return alone.text(1)


def test_the_answer_is_that_of_one_engine_and_nothing_is_left():
    async def scenario(prefill: Side, decode: Side) -> None:
        transfer = await computed(prefill)
        assert prefill.last(1).finish_reason == "length"
        assert prefill.used() == 7
        decode.engine.submit(5, 50, answer(transfer))
        await decode.ended(5)
        assert decode.heard.text(5) == undisturbed()
        assert decode.last(5).cached_tokens == 0  # of its own cache; it computed one token
        assert decode.heard.loads[-1].prompt_tokens == 1
        await prefill.free()
        await decode.free()
        await decode.heard.until(lambda: bool(decode.heard.transfers))
        moved = decode.heard.transfers[-1]
        assert (moved.received, moved.received_bytes, moved.failed) == (1, 100 * 131072, 0)

    between(scenario)


def test_what_was_read_can_be_found_again():
    async def scenario(prefill: Side, decode: Side) -> None:
        for key in (1, 2):
            decode.engine.submit(key, key, answer(await computed(prefill, key)))
            await decode.ended(key)
        assert decode.last(2).cached_tokens == 96
        await decode.heard.until(lambda: decode.heard.transfers[-1].received == 2)
        assert decode.heard.transfers[-1].received_bytes == 104 * 131072

    between(scenario)


def test_a_decode_engine_computes_prompts_too():
    async def scenario(prefill: Side, decode: Side) -> None:
        decode.engine.submit(1, 1, answer())
        await decode.ended(1)
        assert decode.heard.text(1) == undisturbed()

    between(scenario)


def test_what_nobody_reads_is_free_when_its_lease_is_over():
    async def scenario(prefill: Side, decode: Side) -> None:
        transfer = await computed(prefill)
        assert prefill.used() == 7
        await prefill.free()
        await prefill.heard.until(lambda: prefill.heard.transfers[-1].expired == 1)
        decode.engine.submit(1, 1, answer(transfer))
        await decode.heard.until(lambda: bool(decode.heard.losses))
        ((key, text),) = decode.heard.losses
        assert (key, text.rpartition(": ")[2]) == (1, "given up")
        assert decode.heard.steps == []

    between(scenario, prefill={"sim_kv_lease": 0.2})


def test_what_is_said_to_be_unread_is_free_at_once():
    async def scenario(prefill: Side, decode: Side) -> None:
        transfer = await computed(prefill)
        prefill.engine.unread("r", transfer | {"remote_engine_id": "engine/0#7"})
        assert prefill.used() == 7
        for _ in range(2):
            prefill.engine.unread("r", transfer)
            assert prefill.used() == 0
        await prefill.heard.until(lambda: prefill.heard.transfers[-1].held == 0)
        assert prefill.heard.transfers[-1].expired == 0

    between(scenario)


def test_a_reader_that_waits_for_room_keeps_the_blocks_from_being_given_up():
    """A queue that is longer than the lease."""

    async def scenario(prefill: Side, decode: Side) -> None:
        transfer = await computed(prefill)
        decode.engine.submit(1, 1, generate([1] * 100, max_tokens=5))
        decode.engine.submit(2, 2, answer(transfer))
        await decode.ended(2)
        assert decode.heard.text(2) == undisturbed()
        assert prefill.heard.loads[-1].blocks_used == 0

    # The first request has all the blocks, for 0.8 s.
    crowded = {"num_gpu_blocks_override": 9, "max_model_len": 128, "sim_speed": 12.0}
    between(
        scenario,
        prefill={"sim_kv_lease": 0.3},
        decode=crowded | {"sim_kv_lease": 0.3, "sim_kv_bandwidth": 1e12},
    )


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_prefill_engine_that_ends_takes_its_blocks_along(when):
    async def scenario(prefill: Side, decode: Side) -> None:
        transfer = await computed(prefill)
        if when == "during":
            decode.engine.submit(1, 1, answer(transfer))
            await asyncio.wait_for(read_began(prefill), 10)
        await prefill.engine.stop()
        if when == "before":
            decode.engine.submit(1, 1, answer(transfer))
        await decode.heard.until(lambda: bool(decode.heard.losses))
        await decode.free()
        assert decode.heard.transfers[-1].failed == 1
        decode.engine.submit(2, 2, generate(PROMPT, max_tokens=1))
        await decode.ended(2)

    between(scenario, decode=SLOW)


async def read_began(prefill: Side) -> None:
    """A reader is connected."""
    while not prefill.engine._keeper._open:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def test_a_reader_that_leaves_says_so():
    async def scenario(prefill: Side, decode: Side) -> None:
        decode.engine.submit(1, 1, answer(await computed(prefill)))
        await asyncio.wait_for(read_began(prefill), 10)
        assert decode.used() == 0 or decode.used() == 7
        decode.engine.abort([1])
        await prefill.free()
        await decode.free()
        assert prefill.heard.transfers[-1].expired == 0
        assert decode.heard.losses == []

    between(scenario, decode=SLOW)


def test_a_slow_transfer_renews_the_lease():
    async def scenario(prefill: Side, decode: Side) -> None:
        decode.engine.submit(1, 1, answer(await computed(prefill)))
        await decode.ended(1)
        assert decode.heard.text(1) == undisturbed()

    # 13 MB in 1.3 s
    between(
        scenario,
        prefill={"sim_kv_lease": 0.5},
        decode={"sim_speed": 1.0, "sim_kv_bandwidth": 1e7, "sim_kv_lease": 0.5},
    )


def test_a_lease_that_ends_during_a_read_is_a_loss_and_no_token_comes():
    """A reader that renews nothing, as one that is stopped."""

    async def scenario(prefill: Side, decode: Side) -> None:
        decode.engine._readers._beat = 100.0
        decode.engine.submit(1, 1, answer(await computed(prefill)))
        await decode.heard.until(lambda: bool(decode.heard.losses))
        assert decode.heard.losses[0][1].endswith("given up")
        assert decode.heard.steps == []
        await decode.free()
        assert prefill.used() == 0

    # 13 MB in 1.3 s
    between(
        scenario,
        prefill={"sim_kv_lease": 0.2},
        decode={"sim_speed": 1.0, "sim_kv_bandwidth": 1e7},
    )


def test_kept_blocks_make_others_wait_and_no_step_is_done_meanwhile():
    async def scenario(prefill: Side, decode: Side) -> None:
        transfer = await computed(prefill)
        prefill.engine.submit(2, 2, generate([7] * 100, max_tokens=1, transfer=FOR_ANOTHER))
        for _ in range(20):
            await asyncio.sleep(0)
        assert prefill.heard.finished() == [1]
        prefill.engine.unread("r", transfer)
        await prefill.ended(2)

    between(scenario, prefill={"num_gpu_blocks_override": 9, "max_model_len": 128})


@pytest.mark.parametrize(
    ("role", "transfer", "words"),
    [
        ("decode", FOR_ANOTHER, "its role is decode"),
        ("aggregated", FOR_ANOTHER, "its role is aggregated"),
        ("decode", {"do_remote_prefill": True}, "remote_engine_id"),
    ],
)
def test_what_it_cannot_do_is_refused(role, transfer, words):
    async def main() -> None:
        side = Side(role)
        await side.engine.start(side.heard)
        with pytest.raises(InvalidRequest, match=words):
            side.engine.submit(1, 1, answer(transfer))
        side.engine.submit(2, 2, answer())
        await side.ended(2)
        await side.engine.stop()

    asyncio.run(main())

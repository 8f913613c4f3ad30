"""Hands requests and aborts to vLLM in order: one long-lived task, whatever the load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from actors.engine.vllm.drain import Drain

LIMIT = 16_384
"""Requests that may wait for vLLM to take them. It takes thousands a second; the mailbox of the
actor bounds the open streams before this does."""


class Submission(msgspec.Struct, frozen=True):
    """One request as vLLM's `add_request` takes it. `request_id` is unique in this engine.

    `loads`: it begins with KV blocks of another engine.
    """

    request_id: str
    prompt: Any
    params: Any
    priority: int = 0
    rank: int | None = None
    reasoning_ended: bool | None = None
    tokenization: dict[str, Any] | None = None
    loads: bool = False
    lora: Any = None


class Intake:
    """The way into one AsyncLLM.

    `llm` needs `add_request`, `abort` and `errored`; `on_dead` is told when it is found dead.
    """

    def __init__(self, llm: Any, drain: Drain, on_dead: Callable[[str], None]) -> None:
        self._llm = llm
        self._drain = drain
        self._on_dead = on_dead
        self._waiting: dict[int, Submission] = {}
        self._aborts: list[str] = []
        self._wake = asyncio.Event()

    def submit(self, key: int, stream: int, submission: Submission) -> None:
        self._drain.open(key, stream, loads=submission.loads)
        if len(self._waiting) >= LIMIT:
            self._drain.fail(key, f"{LIMIT} requests wait for the engine already; try again later")
            return
        self._waiting[key] = submission
        self._wake.set()

    def abort(self, keys: Iterable[int]) -> None:
        keys = list(keys)
        for key in keys:
            self._waiting.pop(key, None)  # vLLM never sees it
        self._aborts += self._drain.forget(keys)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled, or until the engine is dead."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._aborts or self._waiting:
                    await self._next()
                    # `add_request` seldom suspends: let the engine's output through in between.
                    await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 - aborting fails only where the engine is gone
            self._on_dead(f"{type(error).__name__}: {error}")

    async def _next(self) -> None:
        if self._aborts:  # first, since they make room
            ids, self._aborts = self._aborts, []
            await self._llm.abort(ids, internal=True)
            return
        key = next(iter(self._waiting))
        await self._add(key, self._waiting.pop(key))

    async def _add(self, key: int, submission: Submission) -> None:
        try:
            collector = await self._llm.add_request(
                submission.request_id,
                submission.prompt,
                submission.params,
                lora_request=submission.lora,
                priority=submission.priority,
                data_parallel_rank=submission.rank,
                reasoning_ended=submission.reasoning_ended,
                tokenization_kwargs=submission.tokenization,
            )
        except Exception as error:
            if self._llm.errored:
                raise
            # Whatever else vLLM raises here is about this request alone: it breaks a rule of the
            # model, or a queue is full. vLLM may have noted it before it failed; abort forgets it.
            await self._llm.abort(submission.request_id)
            self._drain.fail(key, str(error) or type(error).__name__)
            return
        if not self._drain.attach(key, collector):  # it was aborted while vLLM took it
            self._aborts.append(collector.request_id)

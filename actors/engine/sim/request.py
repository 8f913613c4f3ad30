"""One request inside a simulated rank."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from enum import IntEnum
from functools import cache

from msgspec.structs import replace

from actors.engine.sim.answers import CHUNK, Answer
from schemas.generate import FinishReason, Generate


class Status(IntEnum):
    """Where a request stands. A preempted one waits again and keeps its tokens. A remote one has
    blocks, which another engine's are being read into.
    """

    WAITING = 0
    RUNNING = 1
    PREEMPTED = 2
    FINISHED = 3
    REMOTE = 4


@cache
def _packer(size: int) -> Callable[..., bytes]:
    """Tokens of a block as bytes that are the same on every machine."""
    return struct.Struct(f"<{size}I").pack


class SimRequest:
    """State of one request; `Scheduler`, `Paging` and `Rank` change it.

    `tokens` runs ahead of `num_tokens`: behind the prompt and the tokens said so far stands the
    rest of the chunk of the answer that is made up already.
    `expected` is `num_tokens` and the tokens that steps in flight will add.
    `num_computed` counts the tokens whose KV exists or is being computed by a step in flight,
    while that is a prefill. A decoding request has computed all of `expected` but one; it needs
    no thought by the scheduler while `expected` is below `easy`, which is 0 during a prefill.
    `first` is the token count with the first new token, after any that an earlier engine gave.
    `end` is the token count at which the answer is over, and why, once that is made up.
    `watch` is the token count below which a token is just one more; see `Rank`.
    `remote`: another engine has computed the prompt, and its blocks are still to be read; `read` is
    how many tokens they gave. `keeps`: its blocks are for another engine.
    """

    __slots__ = (
        "_hasher",
        "_pack",
        "answer",
        "arrival",
        "block_size",
        "blocks",
        "cached_tokens",
        "capacity",
        "easy",
        "end",
        "expected",
        "findable",
        "first",
        "hashes",
        "keeps",
        "key",
        "limit",
        "lora",
        "num_computed",
        "num_prompt",
        "num_tokens",
        "preemptions",
        "priority",
        "read",
        "remote",
        "salt",
        "sampling",
        "status",
        "stream",
        "tokens",
        "watch",
    )

    def __init__(
        self,
        key: int,
        stream: int,
        request: Generate,
        answer: Answer,
        *,
        block_size: int,
        limit: int,
    ) -> None:
        """The answer is over at the latest when prompt and answer have `limit` tokens."""
        self.key = key
        self.stream = stream
        self.priority = request.priority
        self.arrival = 0
        self.sampling = request.sampling
        if request.resumed:  # the logprobs of the prompt came with the first of these
            self.sampling = replace(request.sampling, prompt_logprobs=None)
        self.lora = request.lora
        self.salt = request.salt
        self.answer = answer
        self.tokens = request.token_ids + request.resumed
        self.num_prompt = len(request.token_ids)
        self.num_tokens = len(self.tokens)
        self.first = self.num_tokens + 1
        self.expected = self.num_tokens
        self.num_computed = 0
        self.easy = 0
        self.limit = limit
        self.end: tuple[int, FinishReason, int | None] | None = None
        self.watch = self.first
        self.foresee()
        self.status = Status.WAITING
        self.preemptions = 0
        self.cached_tokens = 0
        transfer = request.transfer or {}
        self.remote = bool(transfer.get("do_remote_prefill"))
        self.keeps = bool(transfer.get("do_remote_decode"))
        self.read = 0
        self.block_size = block_size
        self.blocks: list[int] = []
        self.capacity = 0
        self.findable = 0
        self.hashes: list[int] = []
        # One hash over all tokens so far is a chain: equal only if every block before is equal.
        self._hasher = hashlib.blake2b(digest_size=8)
        if request.lora or request.salt:
            self._hasher.update(repr((request.lora, request.salt)).encode())
        self._pack = _packer(block_size)

    @property
    def order(self) -> tuple[int, int]:
        """Rank under the priority policy: the smaller is served first."""
        return (self.priority, self.arrival)

    def hash_up_to(self, blocks: int) -> list[int]:
        """Hashes of the first `blocks` blocks, all of which are full."""
        hashes, size = self.hashes, self.block_size
        for start in range(len(hashes) * size, blocks * size, size):
            self._hasher.update(self._pack(*self.tokens[start : start + size]))
            hashes.append(int.from_bytes(self._hasher.digest(), "little"))
        return hashes if len(hashes) == blocks else hashes[:blocks]

    def lose_blocks(self) -> list[int]:
        """Forget the KV: finished, aborted or preempted. Returns the blocks in token order."""
        blocks, self.blocks = self.blocks, []
        self.capacity = self.findable = self.num_computed = self.easy = self.watch = self.read = 0
        self.expected = self.num_tokens
        return blocks

    def foresee(self) -> None:
        """Make up the next chunk of the answer, and see whether it ends there."""
        start = len(self.tokens)
        said = start - self.num_prompt
        into = said % CHUNK  # a resumed answer may begin within a chunk
        self.tokens += self.answer.chunk(said - into)[into:]
        if len(self.tokens) >= self.limit:
            self.end = (self.limit, "length", None)
        stops = self.answer.stops
        if stops.isdisjoint(self.tokens[start:]):
            return
        for place in range(start, min(len(self.tokens), self.limit)):
            token = self.tokens[place]
            if token in stops:
                self.end = (place + 1, "stop", None if token == self.answer.eos else token)
                return

"""KV blocks of requests: what vLLM's KVCacheManager decides for full attention, one KV group."""

from __future__ import annotations

from actors.engine.sim.blocks import BlockPool, BlockStored
from actors.engine.sim.options import SimOptions
from actors.engine.sim.request import SimRequest, Status


class Paging:
    """Gives blocks to requests, makes full ones findable, takes them back."""

    def __init__(self, options: SimOptions, *, record: bool) -> None:
        """With `record`, the pool collects KV events."""
        self._size = options.block_size
        self._caching = options.enable_prefix_caching
        self._watermark = int(options.watermark * options.num_gpu_blocks_override)
        self._record = record
        self.pool = BlockPool(options.num_gpu_blocks_override, caching=self._caching, record=record)
        self.held_tokens = 0
        """Tokens for which running requests hold blocks, a shared block once per request."""

    def cached_prefix(self, request: SimRequest) -> list[int]:
        """Blocks that hold a prefix of the request.

        Never all of it: the last token is computed again, because its logits are needed. Nor
        anything when the logits of the whole prompt are.
        """
        if not self._caching or request.sampling.prompt_logprobs is not None:
            return []
        return self.pool.find(request.hash_up_to((request.num_tokens - 1) // self._size))

    def admit(self, request: SimRequest, prefix: list[int], tokens: int, *, alone: bool) -> bool:
        """Give a waiting request its `prefix` and blocks for `tokens` tokens in all.

        False, and nothing is done, unless all that is known of the request finds room, so that
        its prefill cannot get stuck half-way; and the watermark besides, unless it runs `alone`.
        """
        if not self._take_prefix(request, prefix, alone=alone):
            return False
        self.held_tokens += request.capacity
        grown = self.grow(request, tokens)
        assert grown
        return True

    def reserve(self, request: SimRequest, prefix: list[int], *, alone: bool) -> bool:
        """As `admit`, for blocks that are read from another engine: see `arrived`."""
        if not self._take_prefix(request, prefix, alone=alone):
            return False
        count = -(-request.num_tokens // self._size) - len(prefix)
        request.blocks = request.blocks + self.pool.take(count)
        request.capacity += count * self._size
        return True

    def arrived(self, request: SimRequest) -> None:
        """What was reserved has been read: the whole prompt, and it is findable from now on."""
        self.held_tokens += request.capacity
        self.publish(request, request.num_prompt)

    def keep(self, request: SimRequest) -> list[int]:
        """It is over, but its blocks stay as they are until they are given to the pool."""
        self.held_tokens -= request.capacity
        return request.lose_blocks()

    def _take_prefix(self, request: SimRequest, prefix: list[int], *, alone: bool) -> bool:
        """If all that is known of the request finds room."""
        needed = -(-request.num_tokens // self._size) - len(prefix) + self.pool.idle(prefix)
        if needed + (0 if alone else self._watermark) > self.pool.free:
            return False
        self.pool.hold(prefix)
        request.blocks = prefix
        request.findable = len(prefix)
        request.capacity = len(prefix) * self._size
        return True

    def grow(self, request: SimRequest, tokens: int) -> bool:
        """Make room for `tokens` tokens in all; False, and nothing is done, if there is none."""
        missing = tokens - request.capacity
        if missing > 0:
            count = -(-missing // self._size)
            if count > self.pool.free:
                return False
            request.blocks += self.pool.take(count)
            request.capacity += count * self._size
            self.held_tokens += count * self._size
        self.publish(request, min(tokens, request.num_tokens))
        return True

    def publish(self, request: SimRequest, tokens: int) -> None:
        """Make the blocks that the first `tokens` tokens fill findable."""
        start, end = request.findable, tokens // self._size
        if start >= end or not self._caching:
            return
        hashes = request.hash_up_to(end)
        new = hashes[start:]
        self.pool.publish(request.blocks[start:end], new)
        request.findable = end
        if self._record:
            lora = (request.lora,) if request.lora else ()
            keys: list[tuple[str, ...] | None] = [lora or None] * (end - start)
            if request.salt and not start:
                keys[0] = (*lora, request.salt)
            parent = hashes[start - 1] if start else None
            tokens_of = request.tokens[start * self._size : end * self._size]
            self.pool.note(BlockStored(new, parent, tokens_of, self._size, request.lora, keys))

    def drop(self, request: SimRequest) -> None:
        """Take all blocks back."""
        if request.status is not Status.REMOTE:
            self.held_tokens -= request.capacity
        self.pool.release(request.lose_blocks())

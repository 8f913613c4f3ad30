"""A short life of the `vllm` backend with the vLLM of this interpreter: answer, events, abort.

    python -m launch.compat.smoke MODEL

The last line of the output is JSON: seconds to start, the greedy answer's tokens, the KV events.
Ends with a trace and a non-zero exit code if anything is not as it must be.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psutil
import zmq

from actors.engine.vllm.backend import VllmBackend
from schemas.generate import Delta, Generate, Sampling
from schemas.load import Load
from schemas.transfer import TransferState

BLOCK_SIZE = 32
PROMPT = list(range(100, 180))
"""Two whole blocks and a part."""
PATIENCE = 120.0


class Memory:
    """The sink: remembers what the engine said."""

    def __init__(self) -> None:
        self.deltas: dict[int, list[Delta]] = {}
        self.newest: Load | None = None
        self.deaths: list[str] = []
        self._changed = asyncio.Event()

    def waits(self, what: str) -> None:
        """Nothing is waited for here."""

    def step(self, deltas: Sequence[tuple[int, Delta]]) -> None:
        for key, delta in deltas:
            self.deltas.setdefault(key, []).append(delta)
        self._changed.set()

    def load(self, load: Load) -> None:
        self.newest = load
        self._changed.set()

    def lost(self, key: int, text: str) -> None:
        """Nothing is transferred here."""

    def transfer(self, state: TransferState) -> None:
        """Nothing is transferred here."""

    def dead(self, reason: str, *, outside: bool = False) -> None:
        self.deaths.append(reason)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def options(model: str, endpoint: str) -> dict[str, Any]:
    return {
        "model": model,
        "dtype": "float32",
        "max_model_len": 1024,
        "block_size": BLOCK_SIZE,
        "max_num_seqs": 4,
        "enforce_eager": True,
        "disable_log_stats": True,
        "kv_events_config": {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": endpoint,
        },
    }


def stored_blocks(subscriber: zmq.Socket[bytes]) -> int:
    """Blocks that all events tell of that come until there is silence for two seconds."""
    stored = 0
    while subscriber.poll(2000):
        payload = subscriber.recv_multipart()[-1]
        _time, events, *_rank = msgspec.msgpack.decode(payload)
        stored += sum(_blocks_stored(event) for event in events)
    return stored


def _blocks_stored(event: dict[str, Any] | list[Any]) -> int:
    """An event is a map; in older releases an array, in which the kind comes first."""
    if isinstance(event, dict):
        kind, hashes = event["type"], event.get("block_hashes", [])
    else:
        kind, hashes = event[0], event[1] if len(event) > 1 else []
    return len(hashes) if kind == "BlockStored" else 0


async def answered(backend: VllmBackend, memory: Memory) -> list[int]:
    backend.submit(
        1, 1, Generate("smoke", "model", Sampling(max_tokens=8, temperature=0.0), token_ids=PROMPT)
    )
    await memory.until(lambda: any(delta.finish_reason for delta in memory.deltas.get(1, ())))
    last = memory.deltas[1][-1]
    assert (last.finish_reason, last.error) == ("length", None), last
    return [token for delta in memory.deltas[1] for token in delta.token_ids]


async def aborted(backend: VllmBackend, memory: Memory) -> None:
    endless = Sampling(max_tokens=900, temperature=0.0, ignore_eos=True)
    backend.submit(2, 2, Generate("smoke", "model", endless, token_ids=PROMPT))
    await memory.until(lambda: len(memory.deltas.get(2, ())) > 2)
    backend.abort([2])
    await memory.until(lambda: memory.newest is not None and memory.newest.running == 0)
    assert memory.newest is not None
    assert memory.newest.blocks_used == 0, memory.newest


async def smoke(model: str) -> dict[str, Any]:
    memory = Memory()
    with tempfile.TemporaryDirectory(prefix="callboard-") as folder:
        endpoint = f"ipc://{folder}/events"  # vLLM binds it, and no port is open to others
        context = zmq.Context()
        subscriber: zmq.Socket[bytes] = context.socket(zmq.SUB)
        subscriber.subscribe(b"")
        subscriber.connect(endpoint)
        backend = VllmBackend(options(model, endpoint))
        try:
            begun = time.monotonic()
            card = await backend.start(memory)
            started = time.monotonic() - begun
            tokens = await answered(backend, memory)
            await aborted(backend, memory)
            stored = await asyncio.to_thread(stored_blocks, subscriber)
            assert stored >= len(PROMPT) // BLOCK_SIZE, stored
        finally:
            await backend.stop()
            context.destroy(linger=0)
    assert memory.deaths == []
    left = psutil.Process().children(recursive=True)
    assert left == [], left
    return {
        "version": card.engine_version,
        "seconds": round(started, 1),
        "tokens": tokens,
        "stored": stored,
    }


def main() -> None:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    result = asyncio.run(smoke(sys.argv[1]))
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()

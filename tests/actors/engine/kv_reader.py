"""A reader of KV events, written from vLLM's documentation alone: subscriber and replay client."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

import msgspec
import zmq

END = (-1).to_bytes(8, "big", signed=True)
PATIENCE = 60_000
"""Milliseconds."""

Batch = tuple[int, Any]
"""Sequence and decoded payload."""


class KvReader:
    """Binds its SUB on loopback, as a KvEventActor does, and asks on a DEALER."""

    def __init__(self, topic: str = "", *, hwm: int = 0) -> None:
        self.context = zmq.Context()
        self.sub: zmq.Socket[bytes] = self.context.socket(zmq.SUB)
        self.sub.set_hwm(hwm)
        self.sub.subscribe(topic)
        self.port = self.sub.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.context.destroy(linger=0)

    def frames(self, timeout: int = PATIENCE) -> list[bytes]:
        assert self.sub.poll(timeout), "no event came"
        return self.sub.recv_multipart()

    def batch(self, timeout: int = PATIENCE) -> Batch:
        _topic, sequence, payload = self.frames(timeout)
        return int.from_bytes(sequence, "big"), msgspec.msgpack.decode(payload)

    def waiting(self, timeout: int = 300) -> list[Batch]:
        """What there is until nothing comes for `timeout` milliseconds."""
        found = []
        while self.sub.poll(timeout):
            found.append(self.batch())
        return found

    def asker(self, endpoint: str, *, hwm: int = 1000) -> zmq.Socket[bytes]:
        asker: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        asker.set_hwm(hwm)
        asker.connect(endpoint)
        return asker

    def replay(self, endpoint: str, first: int) -> list[tuple[bytes, int, bytes]]:
        """Topic, sequence and payload of each batch from `first` on."""
        asker = self.asker(endpoint)
        asker.send_multipart((b"", first.to_bytes(8, "big")))
        found = []
        while (frames := answer(asker))[2] != END:
            _, topic, sequence, payload = frames
            found.append((topic, int.from_bytes(sequence, "big"), payload))
        asker.close(linger=0)
        return found

    def replay_to(self, endpoint: str, last: int) -> list[tuple[bytes, int, bytes]]:
        """All batches, once that with the sequence `last` is on its way."""
        deadline = time.monotonic() + PATIENCE / 1000
        while not (found := self.replay(endpoint, 0)) or found[-1][1] < last:
            assert time.monotonic() < deadline, f"batch {last} did not come"
        return found

    def census(self, endpoint: str) -> tuple[int, dict[Any, int]] | None:
        """The last sequence that is contained, and blocks by hash; None if nobody takes one."""
        asker = self.asker(endpoint)
        asker.send_multipart((b"", b"census"))
        frames = answer(asker)
        if frames[2] == END:
            asker.close(linger=0)
            return None
        assert answer(asker) == [b"", b"", END, b""]
        asker.close(linger=0)
        empty, kind, sequence, blocks, *_groups = frames
        assert (empty, kind) == (b"", b"census")
        return int.from_bytes(sequence, "big"), msgspec.msgpack.decode(blocks, strict=False)


def answer(asker: zmq.Socket[bytes]) -> list[bytes]:
    assert asker.poll(PATIENCE), "no answer came"
    return asker.recv_multipart()

"""Publishes an engine's KV events as vLLM's publisher does, and never makes the engine wait.

`publish` numbers a batch and queues it; where the queue is full the oldest batch is dropped, which
readers see as a gap. One thread encodes and sends, another answers (`kv_answers.py`), so that no
replay holds up what is new. Frames and replays are vLLM's, to the byte. Imports no vLLM.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final

import zmq

from actors.engine.kv_answers import Answers
from actors.engine.kv_census import CensusDesk, Holdings
from actors.engine.kv_config import KvEventsConfig
from actors.engine.kv_endpoints import bind, connect, is_bound, of_rank
from actors.engine.kv_ring import Ring

INCARNATION: Final = "CALLBOARD_ENGINE_INCARNATION"
"""Environment variable: the life of the engine, which all sequences of its events begin with."""

LIFE_BITS: Final = 22
"""Batches of one life have room for a count of this many bits."""

GATHER: Final = 0.002
"""Seconds in which batches that follow a sent one are gathered: a wake-up of the thread costs more
than a batch, and takes the interpreter from the step."""

FLUSH: Final = 1.0
"""Seconds in which a publisher that closes sends what is queued."""

log = logging.getLogger(__name__)


def first_sequence(incarnation: int) -> int:
    """Of the first batch in this life of the engine."""
    return incarnation << LIFE_BITS


class KvPublisher:
    """The publisher of one data-parallel rank. `publish` and `between_steps`: one thread only.

    `encode` turns a batch into its payload, on the publisher's own thread. `dropped` counts the
    batches that found no room, `failed` those that could not be encoded or sent.
    """

    def __init__(
        self,
        config: KvEventsConfig,
        encode: Callable[[Any], bytes],
        *,
        rank: int = 0,
        incarnation: int = 0,
        holdings: Holdings | None = None,
    ) -> None:
        """Binds and connects. Raises `ValueError` for an endpoint that cannot be had."""
        self.dropped = 0
        self.failed = 0
        self._encode = encode
        self._first = self._next = first_sequence(incarnation)
        self._topic = config.topic.encode()
        self._most = config.max_queue_size
        self._queue: SimpleQueue[tuple[int, Any] | None] = SimpleQueue()
        self._ring = Ring(config.buffer_steps)
        self._desk = CensusDesk(self.last, holdings)
        # inproc works within one context only: that of whoever reads in this process.
        self._shared = config.endpoint.startswith("inproc://")
        self._context = zmq.Context.instance() if self._shared else zmq.Context()
        try:
            self._pub, self.endpoint = self._make_pub(of_rank(config.endpoint, rank), config.hwm)
            self._answers = self._make_answers(config.replay_endpoint, rank)
        except ValueError:
            if not self._shared:
                self._context.destroy(linger=0)
            raise
        self.replay_endpoint = None if self._answers is None else self._answers.endpoint
        self._given_up = False
        self._closed = False
        self._closing = threading.Event()
        self._until = 0.0
        self._thread = threading.Thread(target=self._run, name="kv-publisher", daemon=True)
        self._thread.start()
        if self._answers is not None:
            self._answers.start()

    def last(self) -> int:
        """The sequence of the last batch that was published."""
        return self._next - 1

    def publish(self, batch: Any) -> None:
        """Number the batch and queue it. Never blocks."""
        queue = self._queue
        if queue.qsize() >= self._most:
            try:
                queue.get_nowait()
            except Empty:  # our thread was quicker
                pass
            else:
                self.dropped += 1
        queue.put((self._next, batch))
        self._next += 1

    def between_steps(self) -> None:
        """All that the engine did so far is published: the time for a census that is asked for."""
        if self._desk.open:
            self._desk.take()

    def close(self) -> None:
        """Send what is queued, for `FLUSH` seconds at most. No thread or socket is left.

        Except where sending hangs: that thread ends when it can, at the latest with the process.
        """
        if self._closed:
            return
        self._closed = True
        self._until = time.monotonic() + FLUSH
        self._closing.set()
        self._queue.put(None)
        self._thread.join(FLUSH)
        if self._thread.is_alive():
            log.warning("%d batches of KV events were not sent", max(0, self._queue.qsize() - 1))
            self._given_up = True
            self._queue.put(None)
            self._thread.join(0.1)
        if self._answers is not None:
            self._answers.close()
        if not self._shared and not self._thread.is_alive():
            self._context.term()  # waits for what lingers

    def _make_pub(self, endpoint: str, hwm: int) -> tuple[zmq.Socket[bytes], str]:
        pub: zmq.Socket[bytes] = self._context.socket(zmq.PUB)
        pub.set_hwm(hwm)
        if is_bound(endpoint):
            return pub, bind(pub, endpoint)
        # What comes while nobody is connected is kept in the ring, not in a queue besides.
        pub.setsockopt(zmq.IMMEDIATE, 1)
        return pub, connect(pub, endpoint)

    def _make_answers(self, endpoint: str | None, rank: int) -> Answers | None:
        if endpoint is None:
            return None
        try:
            endpoint = of_rank(endpoint, rank)
            return Answers(self._context, endpoint, self._topic, self._ring, self._desk)
        except ValueError:
            self._pub.close(linger=0)
            raise

    def _run(self) -> None:
        expected = self._first
        while (item := self._take()) is not None and not self._given_up:
            sequence, batch = item
            if sequence != expected:
                log.warning(
                    "%d batches of KV events were dropped, %d in all: the publisher was late",
                    sequence - expected,
                    self.dropped,
                )
            expected = sequence + 1
            try:
                payload = self._encode(batch)
                self._ring.append(sequence, payload)
                self._send(sequence, payload)
            except Exception:  # one batch that cannot be sent must not end the others
                self.failed += 1
                log.exception("batch %d of KV events was not sent", sequence)
        self._pub.close(linger=max(0, round((self._until - time.monotonic()) * 1000)))

    def _take(self) -> tuple[int, Any] | None:
        """The next batch, at once where one is waiting."""
        if not self._queue.empty():
            return self._queue.get()
        self._closing.wait(GATHER)
        return self._queue.get()

    def _send(self, sequence: int, payload: bytes) -> None:
        self._pub.send_multipart((self._topic, sequence.to_bytes(8, "big"), payload))

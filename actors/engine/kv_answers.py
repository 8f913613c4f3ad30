"""Answers readers of KV events: replays in vLLM's protocol, and censuses.

A request has three frames: identity, empty, and the first sequence wanted (8 bytes, big-endian), or
`census`. A replay is a message (identity, empty, topic, sequence, payload) per batch, then one with
the sequence -1. A census is a message (identity, empty, `census`, sequence, blocks by hash), and
where the engine has several KV cache groups a sixth frame, blocks by hash by group; then the same
end. vLLM's own publisher takes `census` for a number, and answers with the end alone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator

import msgspec
import zmq

from actors.engine.kv_census import Census, CensusDesk, add_up
from actors.engine.kv_endpoints import bind
from actors.engine.kv_ring import Ring

CENSUS = b"census"
END = (-1).to_bytes(8, "big", signed=True)

MOST_REQUESTS = 64
"""Requests that are answered at once; more wait in the socket."""
AT_ONCE = 32
"""Messages that one reader gets before the next one's turn, and that may wait for it unsent."""
RETRY = 0.005
"""Seconds until a reader that was full, or an engine that was at work, is tried again."""
PATIENCE = 60.0
"""Seconds after which an answer that gets no further is given up."""

Frames = tuple[bytes, ...]
Answer = Iterator[Frames | None]
"""Messages without identity and empty frame; None where the next one is not to be had yet."""

log = logging.getLogger(__name__)


class Reader:
    """Somebody who asked. Its answers follow each other; `alive` is when it last got something."""

    __slots__ = ("alive", "answers", "held", "identity")

    def __init__(self, identity: bytes) -> None:
        self.identity = identity
        self.answers: deque[Answer] = deque()
        self.held: Frames | None = None
        self.alive = time.monotonic()

    def message(self) -> Frames | None:
        """The next message to send; it is held until `sent`."""
        if self.held is None and self.answers:
            try:
                self.held = next(self.answers[0])
            except StopIteration:
                self.answers.popleft()
                return self.message()
        return self.held

    def sent(self) -> None:
        self.held = None
        self.alive = time.monotonic()


class Answers:
    """Owns the ROUTER socket, and a thread that answers on it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        topic: bytes,
        ring: Ring,
        desk: CensusDesk,
    ) -> None:
        """Raises `ValueError` for an endpoint that cannot be had."""
        self._router = context.socket(zmq.ROUTER)
        # A full or lost reader is to be an error: the default is to drop in silence.
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.SNDHWM, AT_ONCE)
        self.endpoint = bind(self._router, endpoint)
        self._topic = topic
        self._ring = ring
        self._desk = desk
        self.refused = 0
        """Requests that were none; the first is logged."""
        self._readers: dict[bytes, Reader] = {}
        self._stuck = False
        self._closing, self._close = os.pipe()
        self._thread = threading.Thread(target=self._run, name="kv-answers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends at once, also in mid-answer."""
        os.write(self._close, b"x")
        self._thread.join()
        os.close(self._close)
        os.close(self._closing)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._closing, zmq.POLLIN)
        while True:
            requests = sum(len(reader.answers) for reader in self._readers.values())
            poller.register(self._router, zmq.POLLIN if requests < MOST_REQUESTS else 0)
            ready = dict(poller.poll(self._wait()))
            if self._closing in ready:
                break
            if self._router in ready:
                self._accept()
            self._stuck = True
            for reader in list(self._readers.values()):
                if not self._goes_on(reader):
                    del self._readers[reader.identity]
        self._router.close(linger=0)

    def _wait(self) -> int | None:
        """Milliseconds until something is to be done; None: until somebody asks."""
        if not self._readers:
            return None
        return round(RETRY * 1000) if self._stuck else 0

    def _accept(self) -> None:
        try:
            frames = self._router.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:  # who asked is gone
            return
        if len(frames) != 3:
            self.refused += 1
            if self.refused == 1:
                log.warning("a request for KV events has %d frames instead of 3", len(frames))
            return
        identity, _, request = frames
        reader = self._readers.setdefault(identity, Reader(identity))
        if request == CENSUS:
            reader.answers.append(self._census())
        else:
            reader.answers.append(self._replay(int.from_bytes(request, "big")))

    def _goes_on(self, reader: Reader) -> bool:
        """Send what this reader takes now; whether it is to get more."""
        try:
            self._send(reader)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:  # that one is gone, which is its own affair
                log.warning("a reader of KV events cannot be answered: %s", error)
            return False
        except Exception:  # whatever one answer brings about, others are to be given
            log.exception("a reader of KV events cannot be answered")
            return False
        if time.monotonic() - reader.alive > PATIENCE:
            log.warning("a reader of KV events got no further for %.0f s", PATIENCE)
            return False
        return reader.held is not None or bool(reader.answers)

    def _send(self, reader: Reader) -> None:
        for _ in range(AT_ONCE):
            message = reader.message()
            if message is None:
                break
            try:
                self._router.send_multipart((reader.identity, b"", *message), zmq.NOBLOCK)
            except zmq.Again:
                break
            reader.sent()
            self._stuck = False

    def _replay(self, first: int) -> Answer:
        """Batches from `first` to the newest one of now; those that the ring loses are left out."""
        last = self._ring.last()
        while batches := self._ring.read(first, last, AT_ONCE):
            for sequence, payload in batches:
                yield self._topic, sequence.to_bytes(8, "big"), payload
            first = batches[-1][0] + 1
        yield b"", END, b""

    def _census(self) -> Answer:
        if self._desk.available:
            self._desk.ask()
            while (census := self._desk.collect()) is None:
                yield None
            yield _message(census)
        yield b"", END, b""


def _message(census: Census) -> Frames:
    groups = add_up(census)
    blocks = dict(next(iter(groups.values()), {}))
    for more in list(groups.values())[1:]:
        for block, number in more.items():
            blocks[block] = blocks.get(block, 0) + number
    # Before the first batch of the first life there is no sequence: all bits set, then.
    sequence = census.sequence % 2**64
    frames = (CENSUS, sequence.to_bytes(8, "big"), msgspec.msgpack.encode(blocks))
    return (*frames, msgspec.msgpack.encode(groups)) if len(groups) > 1 else frames

"""A listener on the bus, in a thread: when deaths and verdicts arrived."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import zmq

from bus.envelope import FrameError, decode
from schemas.health import VerdictChanged
from schemas.life import Died

Life = tuple[str, int]
"""Actor and incarnation."""


class Watch:
    """Notes when each life was said to be over, and when it was said to hang."""

    def __init__(self, outboxes: list[str]) -> None:
        self._outboxes = outboxes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._news = threading.Condition()
        self._over = threading.Event()
        self.died: dict[Life, float] = {}
        self.hung: dict[Life, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def wait(self, seen: dict[Life, float], life: Life, timeout: float) -> float | None:
        """When it was `seen`; None if it was not within `timeout` seconds."""
        with self._news:
            self._news.wait_for(lambda: life in seen, timeout)
        return seen.get(life)

    def _listen(self) -> None:
        with self._context.socket(zmq.SUB) as subscriber:
            for topic in (b"life", b"health"):
                subscriber.subscribe(topic)
            for endpoint in self._outboxes:
                subscriber.connect(endpoint)
            while not self._over.is_set():
                if not subscriber.poll(100):
                    continue
                parts = subscriber.recv_multipart()
                now = time.perf_counter()
                try:
                    _, body, _ = decode(parts)
                except FrameError:
                    continue  # not for us
                with self._news:
                    if isinstance(body, Died):
                        self.died.setdefault((body.actor, body.incarnation), now)
                    elif isinstance(body, VerdictChanged) and body.verdict.condition == "hung":
                        life = (body.verdict.actor, body.verdict.incarnation)
                        self.hung.setdefault(life, now)
                    self._news.notify_all()

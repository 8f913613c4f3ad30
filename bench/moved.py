"""What came from one engine to another since they began, as they publish it."""

from __future__ import annotations

import time

import zmq

from bus.envelope import decode
from launch.client import Client
from launch.rundir import RunDir
from schemas.transfer import TransferState

PATIENCE = 3.0
"""Seconds in which an engine has said what it has moved: it does so once a second."""


class Moved:
    """To be made before anything is moved: engines say what has changed, not what there is."""

    def __init__(self, run_dir: RunDir) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._events = self._context.socket(zmq.SUB)
        self._events.subscribe(b"transfer")
        with Client(run_dir) as client:
            for entry in client.entries().values():
                if entry.actor.startswith("engine/"):
                    self._events.connect(entry.outbox)
        self._newest: dict[str, TransferState] = {}

    def text(self) -> str:
        """One sentence, and the end of this object."""
        seconds, count, size = self._sums()
        self._context.destroy(linger=0)
        if not count:
            return "No blocks were moved."
        rate, each = size / seconds / 2**30, 1e3 * seconds / count
        return (
            f"The blocks of {count:,} requests were moved, {size / 2**20:,.0f} MiB, at "
            f"{rate:.3g} GiB/s while they were read, {each:.3g} ms a request."
        )

    def _sums(self) -> tuple[float, int, int]:
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            if self._events.poll(int(left * 1000)):
                header, body, _ = decode(self._events.recv_multipart())
                if isinstance(body, TransferState):
                    self._newest[header.sender] = body
        states = self._newest.values()
        return (
            sum(state.received_seconds for state in states),
            sum(state.received for state in states),
            sum(state.received_bytes for state in states),
        )

"""The interface between EngineActor and the engine behind it: `vllm` and `sim` implement it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from schemas.directory import ModelCard
from schemas.generate import Delta, Generate
from schemas.load import Load
from schemas.transfer import TransferState


class InvalidRequest(Exception):
    """The engine cannot take this request; the text says why, to the user. Nothing was started."""


class KvLost(Exception):
    """KV blocks that the request was to get are not to be had any more. Nothing was started."""


class Sink(Protocol):
    """Where a backend reports. Every method is called on the event loop that ran `start`."""

    def waits(self, what: str) -> None:
        """What the start waits for, or that it goes on: a phrase for a person."""

    def step(self, deltas: Sequence[tuple[int, Delta]]) -> None:
        """One engine step's output: `(key, delta)` for each request that got something.

        Called once per step, also for errors of single requests (`finish_reason="error"`).
        """

    def load(self, load: Load) -> None:
        """The load of one rank, after a step that changed it (not throttled here)."""

    def lost(self, key: int, text: str) -> None:
        """This request's KV blocks did not come. It had no delta, and gets none."""

    def transfer(self, state: TransferState) -> None:
        """What moved between engines, when it changed; at most once a second."""

    def dead(self, reason: str, *, outside: bool = False) -> None:
        """The engine is gone for good. Requests in flight get nothing more.

        `outside`: somebody killed a process of it, so nothing that it was doing is to blame.
        """


class Backend(Protocol):
    """One engine. Not thread-safe: used from the loop that ran `start`."""

    async def start(self, sink: Sink) -> ModelCard:
        """Load the model. Returns its card, after one `sink.load` per rank with true totals.

        Raises any exception with a clear text when the engine cannot start.
        """

    def submit(self, key: int, stream: int, request: Generate) -> None:
        """Take a request. `key` is unique in this life of the engine; deltas carry `stream`.

        Never blocks. Raises `InvalidRequest` or `KvLost` at once, or reports
        `finish_reason="error"` later.
        """

    def abort(self, keys: Iterable[int]) -> None:
        """Forget these requests; unknown keys are ignored. No delta for them follows."""

    def unread(self, request_id: str, transfer: dict[str, Any]) -> None:
        """Nobody will read what is kept for this request; `transfer` is of its last delta."""

    async def stop(self) -> None:
        """End the engine and all its processes. May be called at any time, more than once."""

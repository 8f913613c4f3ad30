"""From vLLM's per-request collectors to one call per engine step, without a task per request.

vLLM puts a request's output into its collector and sets the collector's event, for a task that
waits. Here a `Mark` stands in for the event: it notes that the request has output. At the end of
the step, which a stat logger marks, the noted requests, and only they, are emptied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from actors.engine.vllm.compat import replace_ready
from actors.engine.vllm.outputs import delta_of, error_delta
from schemas.generate import Delta

LOST = "the KV blocks of the prompt did not come from the engine that had computed them"

Emit = Callable[[Sequence[tuple[int, Delta]]], None]


class Stream:
    """One request between its submission and its last delta.

    `collector` is vLLM's RequestOutputCollector, None before vLLM took the request and after its
    end: collector, mark and stream refer to each other in a ring, which that opens. `loads`: it
    begins with KV blocks of another engine.
    """

    __slots__ = ("collector", "dirty", "first", "key", "loads", "stream")

    def __init__(self, key: int, stream: int, *, loads: bool) -> None:
        self.key = key
        self.stream = stream
        self.collector: Any = None
        self.first = True
        self.loads = loads
        self.dirty = False


class Mark:
    """Stands in for the asyncio.Event of one collector."""

    __slots__ = ("_drain", "_stream")

    def __init__(self, drain: Drain, stream: Stream) -> None:
        self._drain = drain
        self._stream = stream

    def set(self) -> None:
        self._drain.arrived(self._stream)

    def clear(self) -> None:
        """The collector was emptied: nothing to do, `flush` has cleared its list."""


class Drain:
    """The streams of one engine, and what is to be said of them.

    `emit` gets `(key, delta)` pairs; `is_dead` tells that the engine is gone: its requests end
    with it, not one by one. `text` says that the engine does text. `lost` is told of a request
    whose KV blocks did not come; `seal` completes what a prefill gives to whoever decodes from it.
    """

    def __init__(
        self,
        emit: Emit,
        is_dead: Callable[[], bool],
        *,
        text: bool,
        lost: Callable[[int, str], None],
        seal: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        self._emit = emit
        self._is_dead = is_dead
        self._text = text
        self._lost = lost
        self._seal = seal
        self._streams: dict[int, Stream] = {}
        self._dirty: list[Stream] = []
        self._outside: list[tuple[int, Delta]] = []
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, key: int, stream: int, *, loads: bool = False) -> None:
        """A request was submitted."""
        self._streams[key] = Stream(key, stream, loads=loads)

    def attach(self, key: int, collector: Any) -> bool:
        """The request is vLLM's now; False if it was forgotten meanwhile, and is to be aborted."""
        stream = self._streams.get(key)
        if stream is None:
            return False
        stream.collector = collector
        replace_ready(collector, Mark(self, stream))
        if collector.output is not None:  # it answered before `add_request` returned
            self.arrived(stream)
            self._schedule()  # its step may be over
        return True

    def arrived(self, stream: Stream) -> None:
        """A collector was filled: by a step, which will be flushed, or by an error, which won't."""
        if stream.collector is None:
            return
        if not stream.dirty:
            stream.dirty = True
            self._dirty.append(stream)
        if isinstance(stream.collector.output, Exception):
            self._schedule()

    def forget(self, keys: Iterable[int]) -> list[str]:
        """No delta for these follows. Returns vLLM's ids of those that it has taken."""
        ids = []
        for key in keys:
            stream = self._streams.pop(key, None)
            if stream is not None and stream.collector is not None:
                ids.append(stream.collector.request_id)
                stream.collector = None
        return ids

    def fail(self, key: int, text: str) -> None:
        """End one stream with an error, soon."""
        stream = self._streams.pop(key, None)
        if stream is not None:
            stream.collector = None
            self._outside.append((key, error_delta(stream.stream, text)))
            self._schedule()

    def clear(self) -> None:
        """The engine is gone: nothing more is said."""
        self.forget(list(self._streams))
        self._dirty.clear()
        self._outside.clear()

    def flush(self) -> None:
        """The step is over: say all that it brought, in one call."""
        deltas, self._outside = self._outside, []
        dirty, self._dirty = self._dirty, []
        for stream in dirty:
            stream.dirty = False
            if stream.collector is not None and (delta := self._take(stream)) is not None:
                deltas.append((stream.key, delta))
        if deltas:
            self._emit(deltas)

    def _take(self, stream: Stream) -> Delta | None:
        try:
            output = stream.collector.get_nowait()
        except Exception as error:  # noqa: BLE001 - the collector raises what was put into it
            self._close(stream)
            return error_delta(stream.stream, f"{type(error).__name__}: {error}")
        if output is None:
            return None
        delta = delta_of(output, stream.stream, first=stream.first, text=self._text)
        if delta.finish_reason is None:
            stream.first = False
            return delta
        self._close(stream)
        if stream.loads and stream.first and delta.finish_reason == "error":
            self._lost(stream.key, LOST)
            return None
        if delta.transfer is not None:
            return replace(delta, transfer=self._seal(delta.transfer))
        return delta

    def _close(self, stream: Stream) -> None:
        del self._streams[stream.key]
        stream.collector = None

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_outside)

    def _flush_outside(self) -> None:
        self._scheduled = False
        if not self._is_dead():
            self.flush()

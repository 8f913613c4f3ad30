"""Rows of a journal as a Chrome trace, which ui.perfetto.dev and chrome://tracing show.

An actor is a process; what its core was given and what it sent and received are instants, asks and
streams are spans from the message to its answer, by correlation. Format: the Trace Event Format
(JSON object, `ph` b, e, i, M; `ts` in microseconds).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bus.journal.view import Row, brief

OPENS, CLOSES = ("ask", "stream"), ("answer", "end")
MAX_OPEN = 65_536
"""Asks whose answers are waited for at once; older ones are left without an end."""
MICROSECONDS = 1e6


def trace_events(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """The events of `{"traceEvents": […]}`, one after another."""
    processes: dict[str, int] = {}
    opened: dict[tuple[str, str, int], str] = {}
    for row in rows:
        life = f"{row.actor}#{row.incarnation}"
        if life not in processes:
            processes[life] = len(processes) + 1
            yield {
                "ph": "M",
                "name": "process_name",
                "pid": processes[life],
                "args": {"name": life},
            }
        if row.what in ("snapshot", "effects"):
            continue
        common = {"pid": processes[life], "tid": 1, "ts": row.time * MICROSECONDS}
        if (span := _span(row, life, opened)) is not None:
            yield {**span, **common, "cat": "asks"}
        said = {"what": row.what, "peer": row.peer, "number": row.number, "data": brief(row, 200)}
        yield {"ph": "i", "s": "t", "name": row.name or row.kind, "args": said, **common}


def _span(row: Row, life: str, opened: dict[tuple[str, str, int], str]) -> dict[str, Any] | None:
    """Its begin or end, of what this actor asked."""
    if not row.correlation:
        return None
    key = (life, row.peer.partition("#")[0], row.correlation)
    number = f"{life} {key[1]} {row.correlation}"
    if row.what == "sent" and row.kind in OPENS:
        opened[key] = row.name
        if len(opened) > MAX_OPEN:
            del opened[next(iter(opened))]
        return {"ph": "b", "id": number, "name": row.name}
    if row.what == "received" and row.kind in CLOSES and key in opened:
        return {"ph": "e", "id": number, "name": opened.pop(key)}
    return None

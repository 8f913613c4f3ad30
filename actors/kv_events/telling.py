"""What is said on topic `kv`: batches of one turn of the loop in one message. Pure."""

from __future__ import annotations

from collections.abc import Callable

from actors.kv_events.run import MOST
from schemas.kv import KvBeat, KvChange, KvChanged, KvLost


class Telling:
    """`publish` gets everything in order, at the latest with `flush`."""

    def __init__(self, publish: Callable[[KvChanged | KvLost | KvBeat], None]) -> None:
        self._publish = publish
        self._waiting: list[KvChanged] = []
        self._last = 0  # the last sequence that fits into one message with these

    def changed(self, message: KvChanged) -> None:
        waiting = self._waiting
        if waiting and (
            message.cleared
            or message.incarnation != waiting[0].incarnation
            or message.sequence > self._last
        ):
            self.flush()
        if not waiting:
            self._last = (message.first or message.sequence) + MOST - 1
        waiting.append(message)
        if message.sequence >= self._last:
            self.flush()

    def say(self, message: KvLost | KvBeat) -> None:
        self.flush()
        self._publish(message)

    def flush(self) -> None:
        waiting = self._waiting
        if waiting:
            self._publish(waiting[0] if len(waiting) == 1 else _joined(waiting))
            waiting.clear()


def _joined(messages: list[KvChanged]) -> KvChanged:
    first, last = messages[0], messages[-1]
    runs: list[tuple[KvChange, list[bytes]]] = []
    for message in messages:
        for change in message.changes:
            if runs and (runs[-1][0].kind, runs[-1][0].tier) == (change.kind, change.tier):
                runs[-1][1].append(change.blocks)
            else:
                runs.append((change, [change.blocks]))
    return KvChanged(
        last.engine,
        last.incarnation,
        last.rank,
        last.sequence,
        first.cleared,
        [KvChange(change.kind, change.tier, b"".join(blocks)) for change, blocks in runs],
        sum(message.batches for message in messages),
        first.first or first.sequence,
    )

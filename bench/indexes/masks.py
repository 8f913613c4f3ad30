"""The plainest index there is: a dict from sequence hashes to bit masks of workers."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from bench.indexes import measure
from bench.indexes.work import HOLDERS, PART, Batch, Prompt, restored


class Masks:
    ways: Sequence[str] = ("decoded",)
    mixed = "decoded"
    restores = True

    def begin(self) -> None:
        self.masks: dict[int, int] = {}

    def prepare(self, way: str, batches: Sequence[Batch]) -> tuple[Callable[[Any], object], Any]:
        return self._apply, [
            (1 << batch.worker, change.stored, array("Q", change.names).tolist())
            for batch in batches
            for change in batch.changes
        ]

    def question(self, prompt: Prompt) -> list[int]:
        return array("Q", prompt.names).tolist()

    def look_up(self, question: list[int]) -> dict[int, int]:
        masks = self.masks
        on, number = masks.get(question[0], 0), 0
        found: dict[int, int] = {}
        for number, name in enumerate(question):
            going = on & masks.get(name, 0)
            if going != on:
                found |= dict.fromkeys(_workers(on ^ going), number)
                on = going
            if not on:
                return found
        return found | dict.fromkeys(_workers(on), number + 1)

    def totals(self, found: dict[int, int]) -> dict[int, int]:
        return found

    def parts(self, blocks: int) -> tuple[Callable[[Any], object], list[Any]]:
        return self._part, [(1 << worker, some) for worker, some in restored(blocks, PART)]

    def _apply(self, item: tuple[int, bool, list[int]]) -> None:
        bit, stored, names = item
        masks = self.masks
        for name in names:
            if stored:
                masks[name] = masks.get(name, 0) | bit
                continue
            left = masks.get(name, 0) & ~bit
            if left:
                masks[name] = left
            else:
                masks.pop(name, None)

    def _part(self, item: tuple[int, bytes]) -> None:
        bit, packed = item
        assert bit < 1 << HOLDERS
        self._apply((bit, True, array("Q", packed).tolist()))


def _workers(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


if __name__ == "__main__":
    measure.main(Masks)

"""Stop strings in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Finds the first stop string that is complete, however the text is cut into pieces.

    Of several that end at the same character the first in `stops` wins, as in vLLM.
    Each stop string is followed by its own Knuth-Morris-Pratt automaton, whose state is also how
    much of the text's end must be held back.
    """

    def __init__(self, stops: Sequence[str], *, include: bool) -> None:
        """`stops` are not empty. `include` = the stop string belongs to the text."""
        self.hit: str | None = None
        self._automata = [(stop, _borders(stop)) for stop in stops]
        self._states = [0] * len(stops)
        self._first_chars = {stop[0] for stop in stops}
        self._include = include
        self._held = ""

    def push(self, text: str, *, armed: bool = True) -> str:
        """The text that is certain now. Unless `armed`, stop strings that end here do not count."""
        if not any(self._states) and not any(char in text for char in self._first_chars):
            return text
        for position, char in enumerate(text, start=1):
            complete = self._advance(char)
            if complete is not None and armed:
                self.hit = complete
                end = len(self._held) + position - (0 if self._include else len(complete))
                certain = (self._held + text)[:end]
                self._held = ""
                return certain
        text = self._held + text
        certain_length = len(text) if self._include else len(text) - max(self._states)
        self._held = text[certain_length:]
        return text[:certain_length]

    def finish(self) -> str:
        """The text that was held back: no stop string came of it."""
        held, self._held = self._held, ""
        return held

    def _advance(self, char: str) -> str | None:
        """Move every automaton by one character; the stop string that is complete, if one is."""
        complete = None
        for index, (stop, borders) in enumerate(self._automata):
            state = self._states[index]
            while state and stop[state] != char:
                state = borders[state - 1]
            if stop[state] == char:
                state += 1
            if state == len(stop):
                complete = complete or stop
                state = borders[-1]
            self._states[index] = state
        return complete


def _borders(pattern: str) -> list[int]:
    """For each prefix of `pattern` the length of its longest proper prefix that ends it too."""
    borders = [0] * len(pattern)
    length = 0
    for index in range(1, len(pattern)):
        while length and pattern[index] != pattern[length]:
            length = borders[length - 1]
        if pattern[index] == pattern[length]:
            length += 1
        borders[index] = length
    return borders

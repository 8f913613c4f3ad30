"""Tool calls out of a JSON text that is still being written."""

from __future__ import annotations

import json

_LIST, _CALL = 1, 2
"""Depths: in the list, in one of its calls. Deeper is in a value of a call."""


class CallScanner:
    """Reads `[{"name": …, "parameters": …}, …]` in pieces, looking at each character once.

    What is no such list, and what follows one, gives no calls.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._over = False
        self._index = -1
        self._key: str | None = None
        self._name: str | None = None
        self._token: list[str] = []  # of a key, or of a value other than the parameters
        self._arguments: list[str] = []  # not yet given out
        self._pieces: list[tuple[int, str, str]] = []

    def push(self, text: str) -> list[tuple[int, str, str]]:
        """New pieces as (index of the call, its name, more of its arguments' JSON text)."""
        for char in text:
            if self._over:
                break
            self._advance(char)
        self._give_out()
        pieces, self._pieces = self._pieces, []
        return pieces

    def _advance(self, char: str) -> None:
        if self._in_string:
            self._advance_string(char)
        elif char == '"':
            self._in_string = True
            self._keep(char)
        elif char in "[{":
            self._open(char)
        elif char in "]}":
            self._close(char)
        elif self._depth > _CALL:
            self._keep(char)
        elif char == ":":
            self._key = self._read()
        elif char == ",":
            self._key = None
            self._token.clear()
        elif not char.isspace():
            self._keep(char)

    def _advance_string(self, char: str) -> None:
        self._keep(char)
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
            if self._depth == _CALL and self._key == "name":
                self._name = self._read()

    def _open(self, char: str) -> None:
        if self._depth >= _CALL:
            self._keep(char)
        elif char != "[{"[self._depth]:
            self._over = True
        self._depth += 1
        if self._depth == _CALL:
            self._index += 1
            self._key = self._name = None
            self._token.clear()
            self._arguments.clear()

    def _close(self, char: str) -> None:
        self._depth -= 1
        if self._depth >= _CALL:
            self._keep(char)
        elif self._depth == _LIST:
            self._give_out()
        else:
            self._over = True

    def _keep(self, char: str) -> None:
        if self._depth < _CALL:
            self._over = True
        elif self._key == "parameters":
            self._arguments.append(char)
        else:
            self._token.append(char)

    def _read(self) -> str | None:
        """The string that was just completed."""
        text = "".join(self._token)
        self._token.clear()
        try:
            value = json.loads(text)
        except ValueError:
            return None
        return value if isinstance(value, str) else None

    def _give_out(self) -> None:
        if self._name is not None and self._arguments:
            self._pieces.append((self._index, self._name, "".join(self._arguments)))
            self._arguments.clear()

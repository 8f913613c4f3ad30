"""The body that wrk sends is the body that was given."""

from __future__ import annotations

import re

from bench.wrk import _lua_string


def test_lua_string_holds_any_bytes():
    body = bytes(range(256)) + b'"]]\\1' + "ü".encode()
    literal = _lua_string(body)
    assert literal[0] == literal[-1] == '"'
    escapes = re.findall(r"\\(\d{3})", literal)
    assert len(escapes) * 4 == len(literal) - 2
    assert bytes(map(int, escapes)) == body

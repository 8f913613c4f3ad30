"""API keys."""

from __future__ import annotations

import hmac
import os
from hashlib import sha256
from pathlib import Path

from actors.gateway.http.asgi import Scope
from actors.gateway.http.context import header
from actors.gateway.options import Options, OptionsError


def read_keys(options: Options) -> tuple[bytes, ...]:
    """Digests of the keys that are accepted; none: everybody is. Raises OptionsError."""
    lines: list[str] = []
    if options.api_keys_env is not None:
        lines += _lines(options.api_keys_env, os.environ.get(options.api_keys_env, ""))
    if options.api_key_file is not None:
        try:
            text = Path(options.api_key_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionsError(f"api_key_file {options.api_key_file!r}: {error}") from None
        lines += _lines(options.api_key_file, text)
    return tuple(_digest(line) for line in lines)


def _lines(source: str, text: str) -> list[str]:
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if not keys:  # an empty source must not open the door
        raise OptionsError(f"{source} holds no API key: put one on a line, or leave it out")
    return keys


def allowed(scope: Scope, digests: tuple[bytes, ...]) -> bool:
    """Whether the request carries an accepted key, in a time that does not depend on the keys."""
    if not digests:
        return True
    scheme, _, key = (header(scope, b"authorization") or "").partition(" ")
    given = _digest(key.strip())
    matches = [hmac.compare_digest(given, digest) for digest in digests]
    return scheme.lower() == "bearer" and any(matches)


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()

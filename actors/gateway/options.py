"""The options of a gateway: one strict struct, checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from actors.gateway.rules import Live

Positive = Annotated[int, Meta(ge=1)]


class OptionsError(Exception):
    """An option that cannot be: one sentence with the value, the rule and the mend."""


class Options(Live, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes in bytes; `rules` says more of what can change while it runs.

    `api_keys_env` names an environment variable, `api_key_file` a file; both hold one key a line.
    `max_inflight` counts choices: a request with `n=4` is four. `max_pending_bytes` may wait for
    one slow reader, which is then cut off. `reuse_port` lets several gateways share a port.
    `chat_template` is a file whose template replaces the models' own.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    reuse_port: bool = False
    api_keys_env: str | None = None
    api_key_file: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    max_body_bytes: Positive = 8 << 20
    max_pending_bytes: Positive = 1 << 20
    chat_template: str | None = None


def read_options(raw: dict[str, Any]) -> Options:
    """Raises OptionsError for an unknown name, a wrong type or files that cannot be read."""
    try:
        options = msgspec.convert(raw, Options)
    except msgspec.ValidationError as error:
        raise OptionsError(f"gateway options: {error}") from None
    if (options.ssl_certfile is None) != (options.ssl_keyfile is None):
        raise OptionsError("ssl_certfile and ssl_keyfile belong together: give both or none")
    for name in ("ssl_certfile", "ssl_keyfile", "chat_template"):
        path = getattr(options, name)
        if path is not None and not Path(path).is_file():
            raise OptionsError(f"{name} {path!r} is no file that can be read")
    return options

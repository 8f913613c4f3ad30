"""The options of a gateway: one strict struct, checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from actors.gateway.steps import Fallback

Positive = Annotated[int, Meta(ge=1)]


class OptionsError(Exception):
    """An option that cannot be: one sentence with the value, the rule and the mend."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes in bytes.

    `api_keys_env` names an environment variable, `api_key_file` a file; both hold one key a line.
    `max_inflight` counts choices: a request with `n=4` is four. `max_pending_bytes` may wait for
    one slow reader, which is then cut off. `reuse_port` lets several gateways share a port.
    A choice whose engine ends goes on elsewhere: `migration_limit` times at most without a new
    token in between (0: never). Where no engine is ready, choices wait for one for `migration_wait`
    seconds at most.
    `local_prefill_tokens` and `prefill_fallback` as in `steps.Rules`.
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
    max_inflight: Positive = 4096
    max_pending_bytes: Positive = 1 << 20
    chat_template: str | None = None
    migration_limit: Annotated[int, Meta(ge=0)] = 3
    migration_wait: Annotated[float, Meta(gt=0)] = 60.0
    local_prefill_tokens: Annotated[int, Meta(ge=0)] = 2048
    prefill_fallback: Fallback = "local"


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

"""Where each value of a topology came from."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Kind = Literal["default", "file", "environment", "flag", "injected", "live"]
"""From weak to strong, but for `injected`, which stands only where nothing was given."""


class Origin(msgspec.Struct, frozen=True):
    """`place` as a person finds it: `--port`, `up.toml: [gateway] port`, `DYN_HTTP_PORT`.

    `reason` says why an injected value is there.
    """

    kind: Kind
    place: str = ""
    reason: str = ""


Origins = dict[str, Origin]
"""By path, as in a topology file, e.g. `gateway.port`, `router.policy`. Arguments of an engine are
below `args`, e.g. `engine[0].args.block_size`. A path that is not there has its default."""

DEFAULT = Origin("default")


class Injected(msgspec.Struct, frozen=True):
    """What Callboard gives an engine that nobody gave: `args.NAME` or `environment.NAME`.

    `by_engine`: the engine itself does it, in each of its lives.
    """

    path: str
    value: Any
    reason: str
    by_engine: bool = False

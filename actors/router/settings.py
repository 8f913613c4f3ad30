"""What can be set about placement: names, defaults, ranges. Nearly all can change live."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

from bus.wording import numeral, wrong
from schemas.placement import Policy

Value = str | int | float | bool | None
Weight = Annotated[float, Meta(ge=0, le=100)]

FIXED = frozenset({"index_blocks"})
"""Settings that only a start takes."""


class InvalidSetting(ValueError):
    """A name that is no setting, or a value that it cannot take."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Blocks are KV blocks, times are seconds. docs/routing.md has the formula of the cost."""

    policy: Annotated[
        Policy,
        Meta(
            description="How a rank is chosen: kv = by the KV blocks that it holds and by load; "
            "approximate = the same, guessing the blocks from earlier placements; session = as "
            "kv, but requests of a session stay together; least-loaded; power-of-two; "
            "round-robin; random."
        ),
    ] = "kv"
    device_weight: Annotated[
        Weight, Meta(description="What a block is worth that the rank holds on its device.")
    ] = 1.0
    host_weight: Annotated[
        Weight, Meta(description="What a block is worth that the rank holds in host memory.")
    ] = 0.75
    disk_weight: Annotated[
        Weight, Meta(description="What a block is worth that is on disk or outside the host.")
    ] = 0.25
    credit_decay: Annotated[
        Weight,
        Meta(
            description="How fast held blocks lose their worth on a rank that has more prefill "
            "waiting than others; 0 = not at all."
        ),
    ] = 0.0
    prefill_load_scale: Annotated[
        Weight, Meta(description="What a block that must be computed costs, beside one in use.")
    ] = 4.0  # 1.0 gives up cached prefixes for small gains in balance: bench.kv_routing
    request_weight: Annotated[
        Weight, Meta(description="What each request that is there already costs, in blocks.")
    ] = 0.0
    temperature: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="0 = the lowest cost wins; above, ranks are drawn by softmax of their "
            "costs, brought to 0 … 1, over this.",
        ),
    ] = 0.0
    queue_threshold: Annotated[
        Annotated[float, Meta(gt=0, le=1000)] | None,
        Meta(
            description="A rank takes no more while it has this many times max_num_batched_tokens "
            "to prefill, and requests wait in the router; none = they wait in the engine."
        ),
    ] = None
    queue_limit: Annotated[
        int, Meta(ge=1, le=65_536, description="Requests that may wait in the router.")
    ] = 1024
    session_ttl: Annotated[
        float,
        Meta(
            gt=0, le=604_800, description="A session is forgotten this long after its last request."
        ),
    ] = 600.0
    session_limit: Annotated[
        int,
        Meta(ge=1, le=10_000_000, description="Sessions remembered; the least recently used goes."),
    ] = 100_000
    session_threshold: Annotated[
        float,
        Meta(
            gt=0,
            le=1000,
            description="A session leaves its rank while that has this many times "
            "max_num_batched_tokens to prefill.",
        ),
    ] = 4.0
    approximate_ttl: Annotated[
        float,
        Meta(
            gt=0,
            le=604_800,
            description="Without KV events: a prompt is believed to be cached for this long.",
        ),
    ] = 120.0
    approximate_blocks: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 26,
            description="Without KV events: blocks remembered; the least recently used goes.",
        ),
    ] = 1 << 20
    index_blocks: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 30,
            description="Distinct blocks in the index, from KV events; only at start.",
        ),
    ] = 1 << 24
    placement_ttl: Annotated[
        float,
        Meta(
            gt=0,
            le=604_800,
            description="A request of which nobody says that it ended counts as load for this "
            "long.",
        ),
    ] = 3600.0


def parse(
    values: Mapping[str, Any], base: Settings | None = None, *, text: bool = True
) -> Settings:
    """`base` (the defaults) with these values. `text`: it may stand for a number.

    Raises `InvalidSetting` with one sentence that names the setting, the value and the mend.
    """
    known = Settings.__struct_fields__
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            mend = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise InvalidSetting(f"{name} is no setting of the router: {mend}")
    given = {n: _read(v) if text else _none(v) for n, v in values.items()}
    kept = {} if base is None else msgspec.structs.asdict(base)
    try:
        return msgspec.convert({**kept, **given}, Settings, strict=not text)
    except msgspec.ValidationError as error:
        name, rule = wrong(error)
        if name == "policy":
            rule = f"choose one of {', '.join(get_args(Policy))}"
        raise InvalidSetting(f"{name} is {values[name]!r}: {rule}") from None


def _none(value: Any) -> Any:
    return None if value in ("none", "null") else value


def _read(value: Any) -> Any:
    return numeral(value) if isinstance(value, str) and _none(value) else _none(value)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """With the default where None stands for it."""
    default = plain(Settings())
    return {n: default.get(n) if v is None else v for n, v in values.items()}


def check_live(now: Settings, then: Settings) -> None:
    """Raises `InvalidSetting` for a change that only a start takes."""
    for name in sorted(FIXED):
        if getattr(now, name) != getattr(then, name):
            raise InvalidSetting(f"{name} can only be set when the router starts")


def plain(settings: Settings) -> dict[str, Value]:
    return msgspec.structs.asdict(settings)

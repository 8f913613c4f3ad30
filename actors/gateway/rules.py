"""What can be set about how choices go on, and what of a gateway can change while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from bus.wording import numeral, wrong
from schemas.config import Setting

Fallback = Literal["local", "any", "refuse"]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """A choice whose engine ends goes on elsewhere: `migration_limit` times at most without a new
    token in between (0: never). Where no engine is ready, choices wait for one for `migration_wait`
    seconds at most.

    A decode engine computes prompts itself of which it lacks `local_prefill_tokens` at most.
    `prefill_fallback` is for want of prefill engines: decode engines compute prompts of any length
    (`local`, `any`), or longer ones are refused. With `any`, prefill engines answer where there is
    no other.
    """

    migration_limit: Annotated[int, Meta(ge=0)] = 3
    migration_wait: Annotated[float, Meta(gt=0)] = 60.0
    local_prefill_tokens: Annotated[int, Meta(ge=0)] = 2048
    prefill_fallback: Fallback = "local"


class Live(Rules, frozen=True, kw_only=True):
    """All that can change while it runs. `max_inflight` counts choices."""

    max_inflight: Annotated[int, Meta(ge=1)] = 4096

    def rules(self) -> Rules:
        return Rules(**{name: getattr(self, name) for name in Rules.__struct_fields__})


def changed(live: Live, changes: Mapping[str, Setting]) -> Live:
    """`live` with these; None brings the default back. Raises ValueError for what cannot be."""
    known, usual = Live.__struct_fields__, msgspec.structs.asdict(Live())
    for name in changes:
        if name not in known:
            text = (
                f"{name} can only be set when a gateway starts; while it runs: {', '.join(known)}"
            )
            raise ValueError(text)
    new: dict[str, Any] = {n: usual[n] if v is None else _read(v) for n, v in changes.items()}
    try:
        return msgspec.convert({**msgspec.structs.asdict(live), **new}, Live, strict=False)
    except msgspec.ValidationError as error:
        name, rule = wrong(error)
        if name == "prefill_fallback":
            rule = f"choose one of {', '.join(get_args(Fallback))}"
        raise ValueError(f"{name} is {changes[name]!r}: {rule}") from None


def _read(value: Setting) -> Setting:
    return numeral(value) if isinstance(value, str) else value

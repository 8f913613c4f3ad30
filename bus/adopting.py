"""Options that change while an actor runs. The log level is the runtime's, the rest the actor's."""

from __future__ import annotations

from collections.abc import Callable

from bus.actor import Actor, Incoming
from schemas.config import Adopt, Adopted, Setting

LOG_LEVEL = "log_level"
LEVELS = ("debug", "info", "warning", "error")


def adopt(
    incoming: Incoming, message: Adopt, actor: Actor, set_log_level: Callable[[str], None]
) -> bool:
    """Answer it. True if the options are used from now on."""
    own = {name: value for name, value in message.options.items() if name != LOG_LEVEL}
    adopted: dict[str, Setting] = {}
    uses: list[Callable[[], None]] = []
    try:
        if LOG_LEVEL in message.options:
            level = _level(message.options[LOG_LEVEL])
            adopted[LOG_LEVEL] = level
            uses.append(lambda: set_log_level(level))
        if own:
            read, use = actor.adopt(own)
            adopted |= read
            uses.append(use)
    except ValueError as error:
        incoming.refuse("invalid", str(error))
        return False
    if not message.check:
        for use in uses:
            use()
    incoming.answer(Adopted(adopted))
    return not message.check


def _level(value: Setting) -> str:
    if value is None:
        return "info"
    if value not in LEVELS:
        raise ValueError(f"log.level is {value!r}: choose one of {', '.join(LEVELS)}")
    return str(value)

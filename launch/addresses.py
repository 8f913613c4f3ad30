"""Where the actors of a topology on this machine bind and find each other."""

from __future__ import annotations

from bus.runtime import CONFIG, Addresses, Identity
from launch.rundir import RunDir

SUPERVISOR = "supervisor/0"
FIXED = {CONFIG: "config", SUPERVISOR: "supervisor"}
"""Actors with a fixed address: ConfigActor is found by all, the supervisor by the command line."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def ipc_addresses(run_dir: RunDir, identity: Identity) -> Addresses:
    """Sockets in the private run directory.

    Names carry the incarnation, so that nothing meant for one life reaches the next. Only those
    of `FIXED` do not: they are asked when there is no directory.
    """
    config_mailbox, config_outbox = run_dir.endpoint("config.m"), run_dir.endpoint("config.o")
    stem = FIXED.get(identity.actor)
    if stem is None:
        stem = f"{identity.actor.replace('/', '-')}.{_base36(identity.incarnation)}"
    return Addresses(
        run_dir.endpoint(f"{stem}.m"),
        run_dir.endpoint(f"{stem}.o"),
        config_mailbox,
        config_outbox,
    )


def _base36(number: int) -> str:
    """Short, since the path of a unix socket has at most 107 bytes."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"

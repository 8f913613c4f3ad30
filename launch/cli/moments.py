"""Times on the command line: so long ago, or a moment in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from launch.cli.console import USAGE, Failure

_AGO = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def moment(text: str, flag: str) -> datetime:
    """`30s`, `10m`, `2h`, `1d` ago, or ISO 8601, UTC where it does not say. Raises `Failure`."""
    if match := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Failure(
            f"{flag} {text}: write 30s, 10m, 2h, 1d, or a time such as 2026-11-22T16:30:00Z",
            code=USAGE,
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)

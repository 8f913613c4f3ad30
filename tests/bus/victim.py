"""A process with an engine that never answers: `python -m tests.bus.victim DIRECTORY`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.bus.parties import Scripted, Stage


async def main() -> None:
    Stage(Path(sys.argv[1]), tcp=False, lease=10.0).launch("engine/0", Scripted())
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

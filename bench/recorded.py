"""`python -m bench.recorded TOPOLOGY`: records, bytes and drops of all its actors, as JSON."""

from __future__ import annotations

import json
import sys

from launch.cli.target import choose
from launch.client import Client
from schemas.journal import AskRecording, Recording


def main() -> None:
    with Client(choose(sys.argv[1]).run_dir) as client:
        said = [client.ask(actor, AskRecording()) for actor in client.entries()]
    found = [one for one in said if isinstance(one, Recording)]
    sums = [sum(getattr(one, name) for one in found) for name in ("records", "bytes", "dropped")]
    print(json.dumps(sums))


if __name__ == "__main__":
    main()

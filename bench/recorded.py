"""`python -m bench.recorded TOPOLOGY`: what all its actors recorded, and the steps of its engine.

Printed as JSON: records, bytes, drops, steps.
"""

from __future__ import annotations

import json
import sys

from launch.cli.target import choose
from launch.client import Client
from schemas.journal import AskRecording, Recording
from schemas.load import Load


def main() -> None:
    with Client(choose(sys.argv[1]).run_dir) as client:
        entries = client.entries()
        said = [client.ask(actor, AskRecording()) for actor in entries]
        loads = client.latest([entries["engine/0"]], "load", Load)
    found = [one for one in said if isinstance(one, Recording)]
    sums = [sum(getattr(one, name) for one in found) for name in ("records", "bytes", "dropped")]
    print(json.dumps([*sums, loads["engine/0"].step]))


if __name__ == "__main__":
    main()

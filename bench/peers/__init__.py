"""What Callboard is measured beside: each peer in a virtual environment of its own.

`NAME.txt` beside this file pins all packages of a peer; they are installed without resolving.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

DISTRIBUTION = {"dynamo": "ai-dynamo", "nats": "nats-py", "ray": "ray"}
PROGRAMS = {"nats": "nats-server"}
"""Debian packages that a peer needs beside its Python packages."""


class NoPeer(Exception):
    """This peer's environment is not there; the text says how to make it."""


def folder(name: str) -> Path:
    """Where the environment of peer `name` is; `BENCH_PEERS` moves all of them."""
    return Path(os.environ.get("BENCH_PEERS", ROOT / ".cache" / "peers")) / name


def python(name: str) -> str:
    """The interpreter of peer `name`. Raises `NoPeer`."""
    path = folder(name) / "bin" / "python"
    if not path.exists():
        raise NoPeer(f"{name} is not installed; mend: python -m bench.peers {name}")
    return str(path)


def install(name: str) -> None:
    """Make or complete the environment of peer `name`."""
    place = folder(name)
    if not (place / "bin" / "python").exists():
        venv.create(place, with_pip=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--no-deps"]
    subprocess.run([*pip, "-r", str(HERE / f"{name}.txt")], check=True, stdout=sys.stderr)


def version(name: str) -> str:
    """The pinned version of the peer itself."""
    pins = (HERE / f"{name}.txt").read_text()
    found = re.search(rf"^{re.escape(DISTRIBUTION[name])}==(.+)$", pins, re.MULTILINE)
    assert found is not None, f"{name}.txt does not pin {DISTRIBUTION[name]}"
    return found[1]

"""structlog without rich, and rich for who wants it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import launch.process, launch.logs, actors.gateway.http.app
from structlog import dev
assert dev.rich is None
assert "rich.console" not in sys.modules
import rich.console  # found, if it is installed
"""


def test_no_process_loads_rich_unasked() -> None:
    pytest.importorskip("rich")
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=Path(__file__).parents[2], check=True)

"""A topology's run ends also where its supervisor is what fails."""

from __future__ import annotations

import subprocess
import sys

from tests.launch.cli.running import GUARD, environment, free_port

BROKEN = """
import sys
from launch.supervisor.actor import SupervisorActor
def on_start(self, options):
    raise OSError("no more processes")
SupervisorActor.on_start = on_start
from launch.cli import main
sys.exit(main(["serve", "demo", "--engine", "sim", "--port", sys.argv[1]]))
"""


def test_a_supervisor_that_fails_ends_the_command(run_directory) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, free_port()],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "callboard: OSError: no more processes"
    assert list(run_directory.iterdir()) == []

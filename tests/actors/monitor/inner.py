"""The inner process of an engine that does as it is told, line by line: `inner.py DIR LIFE`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from actors.engine.progress import ProgressWriter

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # linux/prctl.h


def main() -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NAME, b"VLLM::EngineCore", 0, 0, 0)
    writer = None
    if sys.argv[1]:
        writer = ProgressWriter(Path(sys.argv[1]), "engine/0", 0, int(sys.argv[2]), beat=0.05)
        writer.step_began(1)
        writer.step_ended()  # the first one, which is exempt
    for line in sys.stdin:
        order, *numbers = line.split()
        values = [float(number) for number in numbers]
        if order == "die":
            os._exit(int(values[0]))
        if order == "workers":  # how many, as those of tensor parallelism
            for number in range(int(values[0])):
                worker(libc, number)
        if writer is None:
            continue
        if order == "step":  # tokens, seconds
            writer.step_began(int(values[0]), unfinished=1)
            time.sleep(values[1])
            writer.step_ended()
        elif order == "spin":  # tokens
            writer.step_began(int(values[0]), unfinished=1)
            while True:
                pass
        elif order == "deadlock":
            ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the GIL
    if writer is not None:
        writer.close()


def worker(libc: ctypes.CDLL, number: int) -> None:
    """A process that waits for its end."""
    if os.fork() == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(PR_SET_NAME, f"VLLM::W{number}".encode(), 0, 0, 0)
        while True:
            signal.pause()


if __name__ == "__main__":
    main()

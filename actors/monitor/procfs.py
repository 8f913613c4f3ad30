"""What the kernel says of a process. Files of /proc that never wait for the process itself."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds of a clock tick, the unit of CPU times in /proc."""

_INFO = struct.Struct("<QQ11Ii")  # struct pidfd_info of linux/pidfd.h, first version
_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11
_INFO_EXIT = 1 << 3


@dataclass(frozen=True, slots=True)
class Stat:
    """`state` is one letter: R, S, D, T, t, Z or X. `cpu` in seconds, of all threads.

    `born` in clock ticks since boot: with the pid it names a process for ever. `status` is its wait
    status once it is a zombie.
    """

    name: str
    state: str
    parent: int
    cpu: float
    born: int
    status: int


def read_stat(pid: int) -> Stat | None:
    """None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may hold blanks and brackets: it ends at the last bracket.
    head, _, rest = text.rpartition(")")
    fields = rest.split()
    cpu = (int(fields[11]) + int(fields[12])) * TICK
    name = head.partition("(")[2]
    return Stat(name, fields[0], int(fields[1]), cpu, int(fields[19]), int(fields[49]))


def title(pid: int) -> str:
    """What a process calls itself in full; `Stat.name` has 15 characters of it.

    Waits for the memory of that process, so it is not for the loop: one that hangs may hold it.
    """
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return line.partition(b"\0")[0].decode(errors="replace")


def descendants(pid: int) -> list[int]:
    """All that it started, and what those started. Some microseconds for each."""
    found: list[int] = []
    for parent in (todo := [pid]):
        try:
            for thread in Path(f"/proc/{parent}/task").iterdir():
                children = (thread / "children").read_text()
                todo += map(int, children.split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    found += todo[1:]
    return found


def how_it_ended(pid: int, pidfd: int) -> int | None:
    """The exit code, as `subprocess` has it, of a process whose pidfd is readable; None where
    nobody may know.

    It need not be our child: its status stands in /proc until its parent collects it, and can be
    asked by the pidfd after that, from Linux 6.15 on.
    """
    stat = read_stat(pid)
    if stat is not None and stat.state in "ZX":
        return os.waitstatus_to_exitcode(stat.status)
    answer = bytearray(_INFO.pack(_INFO_EXIT, *(0,) * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, answer)
    except OSError:
        return None  # an older kernel, or not collected yet
    mask, *_, status = _INFO.unpack(answer)
    return os.waitstatus_to_exitcode(status) if mask & _INFO_EXIT else None


def phrase(code: int | None) -> str:
    """For a person; "" where the code is not known."""
    if code is None:
        return ""
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-code}"

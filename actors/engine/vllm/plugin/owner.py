"""Binds each process of vLLM to the one that started it: they die together, however that happens.

The kernel does it (PR_SET_PDEATHSIG), at the death of the *thread* that started the process: so
engines are started from a thread that lives as long as they do.
"""

from __future__ import annotations

import ctypes
import os
import signal
from multiprocessing import parent_process
from multiprocessing.util import register_after_fork

PR_SET_PDEATHSIG = 1  # linux/prctl.h
ORPHANED = 3
"""Exit code of a process whose parent died before it could be bound to it."""


class Binding:
    """Of this process. It exists so that forked children can be bound to it (weakly referenced)."""

    installed = False


BINDING = Binding()


def install() -> None:
    """Spawned processes come by here. Forked ones inherit the plugin and never load it."""
    if not BINDING.installed:
        BINDING.installed = True
        bind()
        register_after_fork(BINDING, lambda _: bind())


def bind() -> None:
    """SIGKILL for this process when its parent is gone. Nothing in one that vLLM did not start."""
    parent = parent_process()
    if parent is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent.pid:  # it died meanwhile, and no signal comes for that
        os._exit(ORPHANED)

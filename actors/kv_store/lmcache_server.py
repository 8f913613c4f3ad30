"""`python -m actors.kv_store.lmcache_server PARENT …`: LMCache's server, which dies with PARENT.

The kernel sees to that (PR_SET_PDEATHSIG). What follows the pid are flags of `lmcache server`.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOOKUP = "lmcache.v1.multiprocess.modules.lookup"
NO_CHUNK = "has no lookup ipc key"
"""Of what LMCache (0.5.6) warns of with each such prompt, and who says it."""
ORPHANED = 3
"""Exit code where the parent died before this process could be bound to it."""


def main(words: list[str]) -> None:
    """Returns when the server has ended in order."""
    _bind(int(words[0]))
    # The actor asks it every second, and prompts shorter than a chunk are looked for by nobody:
    # that is nothing for a log.
    logging.getLogger("uvicorn.access").addFilter(lambda _: False)
    logging.getLogger(LOOKUP).addFilter(lambda record: NO_CHUNK not in str(record.msg))
    from lmcache.cli.main import main as lmcache

    from actors.kv_store.lmcache_events import tell_tokens_of_brought_chunks
    from actors.kv_store.lmcache_stores import forget_unfinished_stores

    tell_tokens_of_brought_chunks()
    forget_unfinished_stores()
    sys.argv = ["lmcache", "server", *words[1:]]
    lmcache()


def _bind(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(ORPHANED)


if __name__ == "__main__":
    main(sys.argv[1:])

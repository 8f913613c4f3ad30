"""What an engine began to store and never filled is not given to others when it leaves."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lmcache") is None, reason="needs LMCache")

PROGRAM = """
import sys
import threading
from types import SimpleNamespace as Some

from actors.kv_store.lmcache_stores import forget_unfinished_stores
from lmcache.v1.multiprocess.modules.engine_driven_transfer import EngineDrivenTransferModule

if sys.argv[1] == "mended":
    forget_unfinished_stores()

class Module(EngineDrivenTransferModule):
    def __init__(self):
        self._pending_shm_lock = threading.Lock()
        self._pending_shm_writes = {(7, "key"): ["chunk"], (8, "key"): ["another's"]}
        self._pending_shm_reads = {(7, "key"): ["read"]}
        storage = Some(finish_write=print, finish_read_prefetched=print)
        self._ctx = Some(
            storage_manager=storage,
            layout_desc_registry=Some(unregister=lambda *_: None),
        )

module = Module()
module._release_entry(7, Some(model_name="m", world_size=1))
print(module._pending_shm_writes)
"""


@pytest.mark.parametrize(
    ("way", "ended"), [("mended", ["['read']"]), ("as it is", ["['chunk']", "['read']"])]
)
def test_it_is_dropped(way: str, ended: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, way],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout.splitlines() == [*ended, "{(8, 'key'): [\"another's\"]}"]

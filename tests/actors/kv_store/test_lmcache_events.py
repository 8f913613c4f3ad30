"""LMCache's server tells which tokens are in chunks that engines bring."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lmcache") is None, reason="needs LMCache")

PROGRAM = """
from types import SimpleNamespace as Some

from actors.kv_store.lmcache_events import tell_tokens_of_brought_chunks
from lmcache.v1.mp_observability.event import EventType
from lmcache.v1.multiprocess.modules.engine_driven_transfer import EngineDrivenTransferModule
from lmcache.v1.multiprocess.request_handler import get_request_handler_options

before = get_request_handler_options(EngineDrivenTransferModule.commit_store)
tell_tokens_of_brought_chunks()
assert get_request_handler_options(EngineDrivenTransferModule.commit_store) is before is not None

happened = []
class Bus:
    def has_subscribers(self, kind):
        return kind is EventType.MP_TOKENS
    def publish(self, event):
        happened.append((event.event_type, event.metadata))

class Module(EngineDrivenTransferModule):
    def __init__(self):
        sessions = Some(get_or_create=lambda _: Some(extras={}))
        self._ctx = Some(event_bus=Bus(), chunk_size=4, session_manager=sessions)
    def _resolve_for_transfer(self, _):
        def commit_store(**_):
            happened.append("stored")
            return True
        return Some(metadata=None), Some(commit_store=commit_store)
    def _resolve_single_group_obj_keys(self, _):
        return [Some(chunk_hash=b"a"), Some(chunk_hash=b"b")]

key = Some(worker_id=0, request_id="r", token_ids=tuple(range(10)), start=0, end=10)
assert Module().commit_store(key, 7, b"") is True
(kind, told), stored = happened
assert (kind, stored) == (EventType.MP_TOKENS, "stored")
assert told["chunk_hashes"] == [b"a", b"b"]
assert [list(tokens) for tokens in told["token_chunks"]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
assert told["parent_hashes"] == [None, b"a"]

happened.clear()
assert Module().commit_store(Some(**{**vars(key), "worker_id": 1}), 7, b"") is True
assert happened == ["stored"]
"""


def test_tokens_are_told_before_the_chunks_are_there() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr

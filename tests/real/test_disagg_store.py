"""Prefill and decode over NIXL, while the prefill engine keeps its blocks in LMCache as well.

That it is ready shows that LMCache keeps something: it is asked before.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import pytest

from tests.real.pair import DECODE, PREFILL, TOKENS, kv_bytes, pair, prompt, tokens_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("lmcache") is None, reason="needs LMCache"),
]

LENGTH = 600
KEPT = 512
"""Tokens of it that LMCache keeps: whole chunks of 256."""


def test_blocks_go_over_nixl_and_come_back_from_lmcache(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="callboard-") as directory:
        monkeypatch.setenv("CALLBOARD_RUN_DIR", directory)
        with pair(small_model, Path(directory), store=True) as engines:
            card = engines.entries()[PREFILL].card
            assert card is not None
            assert card.connector == "NixlConnector"
            assert card.kv_connectors == ["MultiConnector", "NixlConnector", "LMCacheMPConnector"]
            tokens = prompt(40, LENGTH)
            alone = tokens_of(engines.generate(DECODE, tokens, max_tokens=TOKENS, salt="alone"))
            answer = engines.complete(tokens)
            assert answer["choices"][0]["token_ids"] == alone
            state = engines.until(DECODE, received=1)
            assert (state.received_bytes, state.failed) == (kv_bytes(LENGTH), 0)
            unread = engines.prefill(prompt(43, 100))
            found = engines.until(PREFILL, held=1).hits_by_source.get("external", 0)
            engines.unread(unread)

            for seed in (41, 42):  # they take the prefill engine's own blocks away
                engines.generate(PREFILL, prompt(seed, 1_500), max_tokens=1)
            transfer = engines.prefill(tokens)
            again = engines.generate(
                DECODE, tokens, max_tokens=TOKENS, transfer=transfer, salt="again"
            )
            assert tokens_of(again) == alone
            state = engines.until(DECODE, received=2)
            assert (state.received_bytes, state.failed) == (2 * kv_bytes(LENGTH), 0)
            assert engines.until(PREFILL, held=0).hits_by_source["external"] == found + KEPT
            assert state.hits_by_source == {"p2p": 2 * LENGTH}
            engines.until_load(PREFILL, blocks_used=0)

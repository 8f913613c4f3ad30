"""What an engine's card says for others to agree with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.directory import PRIVATE_SEED

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),  # what torch warns of while it is imported
    pytest.mark.timeout(300),
]


@pytest.fixture
def card() -> Any:
    return importlib.import_module("actors.engine.vllm.card")


@pytest.mark.parametrize(
    ("algorithm", "seed", "named"),
    [
        ("sha256", None, "sha256"),
        ("sha256", "0", "sha256 with seed 0"),
        ("xxhash", "0", "xxhash with seed 0"),
        ("xxhash_cbor", None, f"xxhash_cbor with {PRIVATE_SEED}"),
    ],
)
def test_names_of_blocks(
    card: Any, monkeypatch: pytest.MonkeyPatch, algorithm: str, seed: str | None, named: str
) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    if seed is not None:
        monkeypatch.setenv("PYTHONHASHSEED", seed)
    assert card.kv_hashes(algorithm) == named


def test_private_seeds_are_those_that_vllm_draws(
    card: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import resolve_none_hash_seed

    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    for algorithm in ("sha256", "sha256_cbor", "xxhash", "xxhash_cbor"):
        function = get_hash_fn_by_name(algorithm)
        drawn = resolve_none_hash_seed(function) != resolve_none_hash_seed(function)
        assert drawn is (PRIVATE_SEED in card.kv_hashes(algorithm))


def test_a_revision_is_the_commit_in_the_cache(
    card: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cached = tmp_path / "models--a--b" / "snapshots" / "c0ffee" / "config.json"
    monkeypatch.setattr(card, "try_get_local_file", lambda *_asked: cached)
    assert card.revision("a/b", "main") == "c0ffee"
    assert card.revision(str(tmp_path), None) == ""
    for place, commit in (("models--a--b/snapshots", "c0ffee"), ("snapshots", "main")):
        directory = tmp_path / place / "c0ffee"
        directory.mkdir(parents=True)
        assert card.revision(str(directory), "main") == commit
    assert card.revision(".", None) == ""
    monkeypatch.setattr(card, "try_get_local_file", lambda *_asked: None)
    assert card.revision("a/b", "main") == "main"


@pytest.mark.parametrize(
    ("connectors", "at"),
    [(["MultiConnector", "NixlConnector"], "10.0.0.1:5603"), (["LMCacheMPConnector"], "")],
)
def test_side_channels(
    card: Any, monkeypatch: pytest.MonkeyPatch, connectors: list[str], at: str
) -> None:
    monkeypatch.setenv("VLLM_NIXL_SIDE_CHANNEL_HOST", "10.0.0.1")
    monkeypatch.setenv("VLLM_NIXL_SIDE_CHANNEL_PORT", "5601")
    assert card.side_channel(connectors, 2) == at


def test_events_that_are_off_go_nowhere(card: Any) -> None:
    on = SimpleNamespace(enable_kv_cache_events=True, endpoint="tcp://127.0.0.1:1")
    off = SimpleNamespace(enable_kv_cache_events=False, endpoint="tcp://127.0.0.1:1")
    assert [card.events_endpoint(c) for c in (on, off, None)] == ["tcp://127.0.0.1:1", "", ""]

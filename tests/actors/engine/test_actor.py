"""What the shell says of KV events and of refusals: told at start, shown to who asks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from actors.engine import actor as module
from actors.engine.actor import EngineActor
from actors.engine.backend import InvalidRequest
from actors.engine.core import Submit
from actors.engine.kv_publisher import INCARNATION
from actors.engine.progress import ENGINE
from schemas.directory import ModelCard
from schemas.generate import Generate, Sampling
from schemas.transfer import TransferState

CARD: dict[str, Any] = {
    "model": "m",
    "served_names": ["m"],
    "engine": "vllm",
    "engine_version": "0.32.0",
    "context_length": 100,
    "block_size": 16,
    "num_blocks": 10,
    "max_num_seqs": 1,
    "max_batched_tokens": 100,
    "ranks": 1,
    "role": "aggregated",
    "tokenizer": "",
}


class Quick:
    """A backend that is up at once."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self.incarnation = os.environ[INCARNATION]
        self.engine = os.environ[ENGINE]

    async def start(self, sink: Any) -> ModelCard:
        return self.card

    async def stop(self) -> None:
        pass


class Said:
    """Stands in for the runtime."""

    def __init__(self) -> None:
        self.identity = SimpleNamespace(actor="engine/a", incarnation=1_790_000_000_123)
        self.state, self.detail = "starting", ""
        self.warnings: list[str] = []
        self.failures: list[str] = []
        self.fail = self.failures.append
        self.log = SimpleNamespace(warning=self.warnings.append, exception=lambda _: None)
        self.clock = SimpleNamespace(call_later=lambda *_: None)
        self.recorded = lambda _codec, core, _settings: core.handle

    def ready(self, card: ModelCard) -> None:
        self.state = "ready"

    def set_state(self, state: str, detail: str = "") -> None:
        self.state, self.detail = state, detail


def start(monkeypatch: pytest.MonkeyPatch, kv_publisher: str) -> tuple[EngineActor, Said]:
    monkeypatch.setenv(INCARNATION, "of another life")
    monkeypatch.setenv(ENGINE, "engine/other")
    return loaded(monkeypatch, lambda: Quick(ModelCard(**CARD, kv_publisher=kv_publisher)))


def loaded(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Quick]) -> tuple[EngineActor, Said]:
    """An actor whose backend has started, or failed to, and that has stopped again."""
    monkeypatch.setattr(module, "make_backend", lambda _options: make())

    async def main() -> tuple[EngineActor, Said]:
        actor, said = EngineActor(), Said()
        actor.rt = said  # type: ignore[assignment]
        actor.on_start({})
        assert actor._loading is not None
        await actor._loading
        await actor.on_stop()
        return actor, said

    return asyncio.run(main())


def test_the_backend_finds_the_engine_in_the_environment(monkeypatch):
    actor, _ = start(monkeypatch, "callboard")
    assert actor._backend.engine == "engine/a"
    assert actor._backend.incarnation == "1790000000123"


def test_an_engine_whose_events_are_vllms_own_says_so(monkeypatch):
    _, said = start(monkeypatch, "vllm")
    assert said.state == "ready"
    for word in ("vLLM's own publisher", "install callboard", "VLLM_PLUGINS"):
        assert word in said.detail
    assert said.warnings == [said.detail]


@pytest.mark.parametrize("kv_publisher", ["callboard", ""])
def test_other_engines_have_nothing_to_say(monkeypatch, kv_publisher):
    _, said = start(monkeypatch, kv_publisher)
    assert (said.state, said.detail, said.warnings) == ("ready", "", [])


class Late(Quick):
    """A backend that waits for somebody."""

    async def start(self, sink: Any) -> ModelCard:
        sink.waits("waits for Godot")
        raise RuntimeError("he does not come")


def test_what_a_start_waits_for_is_said(monkeypatch):
    _, said = loaded(monkeypatch, lambda: Late(ModelCard(**CARD)))
    assert (said.state, said.detail) == ("starting", "waits for Godot")
    assert said.failures == ["he does not come"]


class Picky(Quick):
    """A backend that takes nothing."""

    def submit(self, key: int, stream: int, request: Generate) -> None:
        raise InvalidRequest("it was over")


@pytest.mark.parametrize("resumed", [[], [1, 2]])
def test_refused_resumptions_are_counted(monkeypatch, resumed: list[int]):
    monkeypatch.setattr(module, "make_backend", lambda _options: Picky(ModelCard(**CARD)))
    actor = EngineActor()
    noted: list[tuple[str, str]] = []
    actor.rt = Said()  # type: ignore[assignment]  # a double
    actor.rt.note = lambda *what: noted.append(what)
    actor.rt.log = SimpleNamespace(info=lambda *_, **__: None)
    actor._backend = Picky.__new__(Picky)  # type: ignore[assignment]  # a double
    request = Generate("r", "m", Sampling(), [1], resumed=resumed)
    actor._submit(Submit(1, 1, request))
    assert noted == ([("resume_refused", "it was over")] if resumed else [])


def test_an_engine_that_drains_waits_for_those_who_read_from_it():
    engine = EngineActor()
    engine.rt = SimpleNamespace(publish=lambda *_: None)
    engine.transfer(TransferState("sim", held=2))
    assert engine.pending() == 2
    engine.transfer(TransferState("sim"))
    assert engine.pending() == 0

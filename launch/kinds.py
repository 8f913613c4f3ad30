"""Which class is behind which kind of actor. Imported only when one is made: some are heavy."""

from __future__ import annotations

from importlib import import_module

from bus.actor import Actor
from bus.identity import kind_of

_CLASSES = {
    "config": ("actors.config.actor", "ConfigActor"),
    "engine": ("actors.engine.actor", "EngineActor"),
    "gateway": ("actors.gateway.actor", "GatewayActor"),
    "kv-events": ("actors.kv_events.actor", "KvEventActor"),
    "kv-store": ("actors.kv_store.actor", "KvStoreActor"),
    "monitor": ("actors.monitor.actor", "MonitorActor"),
    "router": ("actors.router.actor", "RouterActor"),
}
KINDS = tuple(_CLASSES)


def make_actor(actor: str) -> Actor:
    """A new actor for the id `kind/name`. Raises `ValueError` for an unknown kind."""
    kind = kind_of(actor)
    if kind not in _CLASSES:
        raise ValueError(f"actor {actor!r}: the kind must be one of {', '.join(_CLASSES)}")
    module, name = _CLASSES[kind]
    made = getattr(import_module(module), name)()
    assert isinstance(made, Actor)
    return made

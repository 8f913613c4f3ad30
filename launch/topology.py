"""What a topology is: gateways, engines and their options. `launch.build` makes checked ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

API_KEYS_ENV = "CALLBOARD_API_KEY"
"""Environment variable with API keys, one a line, for `serve` and for gateways."""

Backend = Literal["vllm", "sim"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]
Count = Annotated[int, Meta(ge=1, le=1024)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[int, Meta(ge=1)]


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """`count` gateways share one port. Sizes in bytes; `max_inflight` in choices per gateway."""

    count: Count = 1
    host: str = "127.0.0.1"
    port: Port = 8000
    api_key_file: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    chat_template: str | None = None
    max_body_bytes: Positive | None = None
    max_inflight: Positive | None = None


class Log(msgspec.Struct, frozen=True, kw_only=True):
    level: LogLevel = "info"
    format: LogFormat = "auto"


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """`count` equal engines. `args` are the engine's own arguments, by field, converted."""

    model: str
    name: str | None = None
    count: Count = 1
    backend: Backend = "vllm"
    args: dict[str, Any] = {}


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """A checked topology. Holds no secrets: keys travel in the environment or a file."""

    name: str = "default"
    gateway: Gateway = Gateway()
    engines: list[Engine]
    log: Log = Log()

    def document(self) -> dict[str, Any]:
        """The whole, for ConfigActor."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document

    def actors(self, *, api_keys: bool) -> dict[str, dict[str, Any]]:
        """Options of each actor by its id, in the order of their start.

        `api_keys`: whether gateways find keys in their environment.
        """
        actors: dict[str, dict[str, Any]] = {"config/0": {}, "router/0": {}}
        for name, engine in zip(self._engine_names(), self._each_engine(), strict=True):
            actors[f"engine/{name}"] = {
                "backend": engine.backend,
                "model": engine.model,
                **engine.args,
            }
        gateway: dict[str, Any] = {
            key: value
            for key, value in msgspec.to_builtins(self.gateway).items()
            if key != "count" and value is not None
        }
        if self.gateway.count > 1:
            gateway["reuse_port"] = True
        if api_keys:
            gateway["api_keys_env"] = API_KEYS_ENV
        return actors | {f"gateway/{number}": gateway for number in range(self.gateway.count)}

    def _each_engine(self) -> list[Engine]:
        return [engine for engine in self.engines for _ in range(engine.count)]

    def _engine_names(self) -> list[str]:
        """Given names, `name-0 …` for several of one name, numbers for those without."""
        names: list[str] = []
        for engine in self.engines:
            for number in range(engine.count):
                if engine.name is None:
                    names.append(str(len(names)))
                else:
                    names.append(engine.name if engine.count == 1 else f"{engine.name}-{number}")
        return names

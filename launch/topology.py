"""What a topology is: gateways, engines and their options. `launch.build` makes checked ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from launch.origins import Origins
from launch.supervision import Supervision
from schemas.directory import Role

API_KEYS_ENV = "CALLBOARD_API_KEY"
"""Environment variable with API keys, one a line, for `serve` and for gateways."""

Backend = Literal["vllm", "sim"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]
Count = Annotated[int, Meta(ge=1, le=1024)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[int, Meta(ge=1)]


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """`count` gateways share one port. Sizes in bytes; `max_inflight` in choices per gateway.

    `migration_limit` and `migration_wait` (seconds) as in `actors.gateway.options`.
    """

    count: Count = 1
    host: str = "127.0.0.1"
    port: Port = 8000
    api_key_file: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    chat_template: str | None = None
    max_body_bytes: Positive | None = None
    max_inflight: Positive | None = None
    migration_limit: Annotated[int, Meta(ge=0)] | None = None
    migration_wait: Annotated[float, Meta(gt=0)] | None = None


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """What concerns all actors. `drain_timeout` in seconds: one that is to end has so long for what
    it has begun.
    """

    drain_timeout: Annotated[float, Meta(ge=0, le=86_400)] = 30.0


class Log(msgspec.Struct, frozen=True, kw_only=True):
    level: LogLevel = "info"
    format: LogFormat = "auto"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What actors write into journals, docs/journal.md. `dir` None: below the user's state.

    `everything`: else the flight recorder alone keeps the last `flight_mb` of each actor, 0 turns
    it off. `limit_mb` bounds what each keeps otherwise. `with_text`: token ids and text, too.
    """

    everything: bool = False
    with_text: bool = False
    dir: str | None = None
    limit_mb: Annotated[int, Meta(ge=1, le=1 << 20)] = 1024
    flight_mb: Annotated[int, Meta(ge=0, le=1 << 20)] = 16


class Disaggregation(msgspec.Struct, frozen=True, kw_only=True):
    """Which prompts prefill engines compute, and what is done without any: as the gateways' options
    `local_prefill_tokens` and `prefill_fallback`.
    """

    local_prefill_tokens: Annotated[int, Meta(ge=0)] | None = None
    fallback: Literal["local", "any", "refuse"] | None = None


class KvEvents(msgspec.Struct, frozen=True, kw_only=True):
    """The KvEventActors. `port` is the first of six ranges, see `launch.kv_events`.

    `index`: each keeps an index that can be asked. `topic` of the public events. `replay_batches`
    and `replay_bytes` bound what each rank can replay.
    """

    enabled: bool = True
    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port = 20080
    index: bool = False
    topic: str = ""
    replay_batches: Positive = 100_000
    replay_bytes: Positive = 256 << 20


class KvStore(msgspec.Struct, frozen=True, kw_only=True):
    """LMCache's server, where engines use it. `memory_gb`: GiB of this machine's memory.

    Engines connect to `port` on the loopback; the one above it is the server's HTTP.
    """

    memory_gb: Annotated[float, Meta(gt=0)] = 4.0
    port: Annotated[int, Meta(ge=1, le=65534)] = 5555


Limit = Annotated[float, Meta(gt=0)]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The MonitorActor. `port` of its health checks over HTTP; None serves none.

    `limits` are seconds until something is called hung, see `actors.monitor.options`.
    `canary_payload` is a JSON object, or @ and a file that holds one.
    """

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port | None = None
    canary_idle: Annotated[float, Meta(ge=0)] | None = None
    canary_timeout: Limit | None = None
    canary_payload: str | None = None
    limits: dict[str, Limit] = {}


class Router(msgspec.Struct, frozen=True, kw_only=True):
    """`count` may be 0: then gateways place by load. `settings` are the routers' own, checked."""

    count: Annotated[int, Meta(ge=0, le=64)] = 1
    settings: dict[str, Any] = {}


class KvSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody else who publishes what a rank has in its lower tiers, such as LMCache.

    Callboard connects to `endpoint`, and to `replay_endpoint` for what it missed, if there is one.
    """

    name: Annotated[str, Meta(min_length=1)]
    endpoint: Annotated[str, Meta(pattern=r"^tcp://.+:\d+$")]
    replay_endpoint: Annotated[str, Meta(pattern=r"^(tcp://.+:\d+)?$")] = ""
    rank: Annotated[int, Meta(ge=0)] = 0


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """`count` equal engines. `args` are the engine's own arguments, by field, converted.

    `kv_events`: whether they publish, where their role shall not decide it. `role` in
    prefill/decode topologies. `connector`: what moves KV blocks (nixl, lmcache, kvbm), in order.
    `later`: what was asked for that is checked, and not served yet. `copy_of`: scaling added it to
    the table of this name.
    """

    model: str
    name: str | None = None
    count: Count = 1
    backend: Backend = "vllm"
    args: dict[str, Any] = {}
    kv_events: bool | None = None
    kv_sources: list[KvSource] = []
    role: Role | None = None
    connector: list[str] = []
    later: dict[str, Any] = {}
    copy_of: str | None = None


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """A checked topology. Holds no secrets: keys travel in the environment or a file.

    `origins` has where its values came from, but for defaults. `gone`: engines, by name, that
    scaling took away; they keep their places.
    """

    name: str = "default"
    drain_timeout: float = Whole().drain_timeout
    gateway: Gateway = Gateway()
    router: Router = Router()
    disaggregation: Disaggregation = Disaggregation()
    kv_events: KvEvents = KvEvents()
    kv_store: KvStore = KvStore()
    health: Health = Health()
    supervision: Supervision = Supervision()
    engines: list[Engine]
    log: Log = Log()
    record: Record = Record()
    origins: Origins = {}
    gone: list[str] = []

    def document(self) -> dict[str, Any]:
        """The whole, for ConfigActor."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document

    def named_engines(self) -> list[tuple[str, int, Engine]]:
        """Each engine: its name, its place among the equal ones, and what it is.

        Given names, `name-0 …` for several of one name, numbers for those without.
        """
        named: list[tuple[str, int, Engine]] = []
        for engine in self.engines:
            for place in range(engine.count):
                name = engine.name
                if name is None:
                    name = str(len(named))
                elif engine.count > 1:
                    name = f"{name}-{place}"
                named.append((name, place, engine))
        return named

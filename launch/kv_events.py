"""Which ranks have a KvEventActor, and the ports of each. Pure.

With P the base port and k the number of a rank in the topology: P+k public events, P+500+k their
replay, P+1000+k Callboard's own events, P+1500+k its asks; on the loopback P+2000+k, where the
engine's publisher connects to, and P+2500+k, where the engine answers replay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import msgspec

from launch.connectors import role_of
from launch.topology import Engine, KvEvents, KvSource, Topology

LOOPBACK = "127.0.0.1"
MOST_RANKS = 500
PUBLIC, REPLAY, CONTROL, ASK, SOURCE, SOURCE_REPLAY = (n * MOST_RANKS for n in range(6))
"""Distance of each port of a rank from P+k."""

_TCP = re.compile(r"tcp://(?P<host>\[[^]]*\]|[^:]*):(?P<port>\d+)")
_EVERY = ("*", "0.0.0.0", "[::]", "::")
_KEPT = ("topic", "buffer_steps", "hwm", "max_queue_size")
"""What of a `kv_events_config` of the user's own goes to the engine as it is."""


class Invalid(ValueError):
    """What is asked for cannot be; one sentence."""


class Reader(msgspec.Struct, frozen=True):
    """The KvEventActor of one rank. `number` is the k of its ports, `rank` counts in its engine."""

    engine: str
    rank: int
    number: int
    host: str
    port: int
    replay_port: int
    base: int
    topic: str
    sources: list[dict[str, str]]

    @property
    def actor(self) -> str:
        return f"kv-events/{self.engine}.{self.rank}"

    @property
    def ports(self) -> list[tuple[str, int]]:
        """Where it and its engine listen: host and port."""
        at = self.base + self.number
        public = (self.port, self.replay_port, at + CONTROL, at + ASK)
        return [
            *((self.host, port) for port in public),
            *((LOOPBACK, at + distance) for distance in (SOURCE, SOURCE_REPLAY)),
        ]

    def options(self, settings: dict[str, Any]) -> dict[str, Any]:
        at = self.base + self.number
        return {
            "engine": f"engine/{self.engine}",
            "rank": self.rank,
            "source": f"tcp://{LOOPBACK}:{at + SOURCE}",
            "source_replay": f"tcp://{LOOPBACK}:{at + SOURCE_REPLAY}",
            "host": self.host,
            "port": self.port,
            "replay_port": self.replay_port,
            "control_port": at + CONTROL,
            "ask_port": at + ASK,
            "topic": self.topic,
            "sources": self.sources,
            **settings,
        }


class Plan(msgspec.Struct):
    """`configs`: the `kv_events_config` of each engine whose events are on, by its name.

    `findings` are why it cannot be, `notes` what an operator should know.
    """

    readers: list[Reader] = []
    configs: dict[str, dict[str, Any]] = {}
    findings: list[str] = []
    notes: list[str] = []


def plan(topology: Topology) -> Plan:
    """The KvEventActors of a topology."""
    settings, found = topology.kv_events, Plan()
    wanted = []
    for name, place, engine in topology.named_engines():
        try:
            if _publishes(engine, settings):
                wanted.append((name, place, engine, *rank_range(engine)))
        except Invalid as error:
            found.findings.append(f"engine/{name}: {error}")
    # Ranks that vLLM counts over several nodes have their ports by that count; others fill up.
    taken = {first + i for _, _, engine, first, count in wanted if first for i in range(count)}
    free = (number for number in range(1 << 20) if number not in taken)
    beyond: dict[str, int] = {}
    for name, place, engine, first, count in wanted:
        numbers = [first + i if first else next(free) for i in range(count)]
        if max(numbers) >= MOST_RANKS:
            beyond[name] = max(numbers)
            continue
        try:
            _add(found, settings, name, place, engine, first, numbers)
        except Invalid as error:
            found.findings.append(f"engine/{name}: {error}")
    if beyond:
        found.findings.append(_too_many(beyond))
    found.findings += _clashes(found, topology)
    found.notes += _exposed(found)
    return found


def _too_many(beyond: dict[str, int]) -> str:
    """By engine: the number of its last rank."""
    name, number = next(iter(beyond.items()))
    others = f", nor {len(beyond) - 1} more engines have one" if len(beyond) > 1 else ""
    return (
        f"engine/{name}: data-parallel rank {number} has no port{others}: a node has room for "
        f"{MOST_RANKS} ranks with KV events; switch those of some engines off (kv_events = false)"
    )


def _publishes(engine: Engine, settings: KvEvents) -> bool:
    """Raises `Invalid` where events are asked for and cannot be."""
    own = engine.args.get("kv_events_config")
    if isinstance(own, dict) and not _enables(own):
        return False
    cached = engine.args.get("enable_prefix_caching") is not False
    if engine.kv_events is None:
        asked = isinstance(own, dict) or role_of(engine) in ("aggregated", "prefill")
        return settings.enabled and cached and asked
    if engine.kv_events and not cached:
        raise Invalid("kv_events = true needs prefix caching: leave enable_prefix_caching alone")
    return engine.kv_events


def _enables(own: dict[str, Any]) -> bool:
    return bool(own.get("enable_kv_cache_events")) and own.get("publisher") in (None, "zmq")


def rank_range(engine: Engine) -> tuple[int, int]:
    """The first data-parallel rank that the engine runs, in vLLM's count, and how many."""
    args = engine.args
    size = args.get("data_parallel_size") or 1
    if (alone := args.get("data_parallel_rank")) is not None:
        return alone, 1
    return args.get("data_parallel_start_rank") or 0, args.get("data_parallel_size_local") or size


def _add(
    found: Plan,
    settings: KvEvents,
    name: str,
    place: int,
    engine: Engine,
    first: int,
    numbers: list[int],
) -> None:
    """`place` is the engine's among the equal ones that its table describes."""
    sources = _sources(engine, len(numbers))
    own = engine.args.get("kv_events_config") or {}
    base, count = settings.port, len(numbers)
    asked, replay = _given(own, "endpoint"), _given(own, "replay_endpoint")
    host = settings.host if asked is None else asked[0]
    for rank, number in enumerate(numbers):
        beyond = first + place * count + rank  # vLLM adds its rank to the ports that it is given
        found.readers.append(
            Reader(
                name,
                rank,
                number,
                host,
                base + PUBLIC + number if asked is None else asked[1] + beyond,
                base + REPLAY + number if replay is None else replay[1] + beyond,
                base,
                own.get("topic", settings.topic),
                [_source(source) for source in sources if source.rank == rank],
            )
        )
    lowest = base + numbers[0] - first
    found.configs[name] = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://{LOOPBACK}:{lowest + SOURCE}",
        "replay_endpoint": f"tcp://{LOOPBACK}:{lowest + SOURCE_REPLAY}",
        **{key: own[key] for key in _KEPT if key in own},
    }
    if asked is not None:
        reader = found.readers[-count]
        found.notes.append(
            f"engine/{name}: kv_events_config asks for {own['endpoint']}: {reader.actor} publishes "
            f"there, on {host}:{reader.port}, and the engine publishes to it over the loopback"
        )


def _sources(engine: Engine, ranks: int) -> list[KvSource]:
    if engine.kv_sources and engine.count > 1:
        raise Invalid("kv_sources are those of one engine: write count = 1")
    for source in engine.kv_sources:
        if source.rank >= ranks:
            raise Invalid(
                f"kv_sources: {source.name!r} is of rank {source.rank}, but there are 0 to "
                f"{ranks - 1}"
            )
    return engine.kv_sources


def _source(source: KvSource) -> dict[str, str]:
    return {
        "name": source.name,
        "endpoint": source.endpoint,
        "replay_endpoint": source.replay_endpoint,
    }


def _given(own: dict[str, Any], key: str) -> tuple[str, int] | None:
    """Host and port of the user's own endpoint. Raises `Invalid` for one that cannot be ours."""
    endpoint = own.get(key)
    if endpoint is None:
        return None
    match = _TCP.fullmatch(str(endpoint))
    if match is None or not 0 < int(match["port"]) <= 65535:
        raise Invalid(
            f"kv_events_config.{key} {endpoint!r}: write tcp://HOST:PORT, or leave it out; "
            "--kv-event-host and --kv-event-port say where"
        )
    host = "0.0.0.0" if match["host"] == "*" else match["host"]
    if key == "endpoint" and host not in _EVERY:
        # vLLM connects to what has no wildcard: there the reader listens.
        raise Invalid(
            f"kv_events_config.endpoint {endpoint!r}: vLLM would connect to it, but readers "
            "connect to Callboard; write tcp://*:PORT, or leave it out"
        )
    return host, int(match["port"])


def _clashes(found: Plan, topology: Topology) -> Iterator[str]:
    """Ports that do not exist, or that two would need."""
    highest = max((port for r in found.readers for _, port in r.ports), default=0)
    if highest > 65535:
        most = topology.kv_events.port - (highest - 65535)
        ranks = "1 rank" if len(found.readers) == 1 else f"{len(found.readers)} ranks"
        yield (
            f"--kv-event-port {topology.kv_events.port}: the ports of {ranks} "
            f"would reach {highest}, above 65535; choose one up to {most}"
        )
    used: dict[int, str] = {topology.gateway.port: "the gateway"}
    for reader in found.readers:
        for _, port in reader.ports:
            other = used.setdefault(port, reader.actor)
            if other != reader.actor:
                yield (
                    f"{reader.actor} and {other} both need port {port}: choose another "
                    "--kv-event-port, or another --port"
                )
                return


def _exposed(found: Plan) -> Iterator[str]:
    hosts = sorted({reader.host for reader in found.readers if not _is_loopback(reader.host)})
    for host in hosts:
        yield (
            f"KV events contain the tokens of prompts, and {host} shows them to whoever can reach "
            "it: --kv-event-host 127.0.0.1 keeps them on this machine"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"

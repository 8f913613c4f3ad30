"""What can be known to fail before anything is started: ports, models, certificates, keys."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from launch import kv_store, nixl
from launch.connectors import transfers
from launch.kv_events import LOOPBACK, plan
from launch.rules.case import Case, Rule, Said, Table
from launch.topology import API_KEYS_ENV
from launch.vllm_rules import refusals

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_REMOTE = re.compile(r"(s3|gs|az|https?|hf)://")
LISTED = 6
"""Ports that a finding names."""
_ON = ("1", "on", "yes", "true")
_FILES = ("api_key_file", "ssl_certfile", "ssl_keyfile", "chat_template")


def api_keys(given: list[str], environ: Mapping[str, str]) -> list[str]:
    """All API keys from flags and from the environment, each once, in order."""
    lines = environ.get(API_KEYS_ENV, "").splitlines()
    return list(dict.fromkeys(key for key in [*given, *(line.strip() for line in lines)] if key))


def gateway_port(case: Case) -> Iterator[Said]:
    gateway = case.topology.gateway
    yield from _listening("gateway", gateway.host, gateway.port, "127.0.0.1 or 0.0.0.0")


def health_port(case: Case) -> Iterator[Said]:
    health = case.topology.health
    if health.port is None:
        return
    if health.port == case.topology.gateway.port:
        yield Said("health.port", health.port, "it is the gateway's", "choose another")
        return
    yield from _listening("health", health.host, health.port, "127.0.0.1")


def _listening(section: str, host: str, port: int, others: str) -> Iterator[Said]:
    if host.startswith("["):
        says = "an address has no brackets here"
        yield Said(f"{section}.host", host, says, f"write {host.strip('[]')}")
        return
    match _obstacle(host, port):
        case "in use":
            yield Said(f"{section}.port", port, f"it is in use on {host}", "choose another")
        case "reserved":
            yield Said(f"{section}.port", port, "it is reserved for root", "choose one from 1024")
        case "no address":
            says = "it is no address of this machine"
            yield Said(f"{section}.host", host, says, f"try {others}")


def kv_event_plan(case: Case) -> Iterator[Said]:
    yield from (Said("", None, sentence) for sentence in plan(case.topology).findings)


def kv_event_ports(case: Case) -> Iterator[Said]:
    events, settings = plan(case.topology), case.topology.kv_events
    if events.findings:
        return
    for host in sorted({reader.host for reader in events.readers if ":" in reader.host}):
        says = f"KV events are published over IPv4, and {host} is an address of IPv6"
        yield Said("kv_events.host", settings.host, says, "write one of IPv4, such as 127.0.0.1")
        return
    taken: dict[str, list[int]] = {}
    for host, port in (place for reader in events.readers for place in reader.ports):
        match _obstacle(host, port):
            case "in use":
                taken.setdefault(host, []).append(port)
            case "reserved":
                says = f"port {port} is reserved for root"
                yield Said("kv_events.port", settings.port, says, "choose one from 1024")
                return
            case "no address":
                says = "it is no address of this machine"
                yield Said("kv_events.host", settings.host, says, "try 127.0.0.1")
                return
    for host, ports in taken.items():
        yield Said(
            "kv_events.port",
            settings.port,
            f"{_in_use(ports)} on {host}",
            "choose another range of ports, or switch KV events off",
        )


def side_channels(case: Case) -> Iterator[Said]:
    """Ports that vLLM binds itself, late."""
    events = plan(case.topology)
    side = nixl.plan(
        case.topology, case.machine, case.environ, events, nixl.this_machines_addresses
    )
    taken: list[int] = []
    for channel in side.channels.values():
        for port in channel.ports:
            match _obstacle(channel.host, port):
                case "in use":
                    taken.append(port)
                case "no address":
                    says = "it is no address of this machine"
                    yield Said(f"environment.{nixl.HOST}", channel.host, says, "try 127.0.0.1")
                    return
                case _:
                    continue
    if taken:
        first = case.environ.get(nixl.PORT, str(nixl.FIRST_PORT))
        yield Said(
            f"environment.{nixl.PORT}",
            first,
            f"{_in_use(taken)}, which NIXL's side channels need",
            "set it to the first of a free range",
        )


def kv_store_room(case: Case) -> Iterator[Said]:
    """Ports of LMCache's server, and its memory, which it takes when it starts."""
    options = kv_store.options(case.topology, transfers(case.topology, case.machine))
    if options is None:
        return
    settings, ports = case.topology.kv_store, [options["port"], options["http_port"]]
    others = {case.topology.gateway.port: "the gateway", case.topology.health.port: "health"}
    for port in ports:
        if port in others:
            says = f"port {port} is needed for LMCache's server, and is that of {others[port]}"
            yield Said("kv_store.port", settings.port, says, "choose another")
            return
    match [(port, why) for port in ports if (why := _obstacle(LOOPBACK, port))]:
        case [(_, "reserved"), *_]:
            says = "it is reserved for root"
            yield Said("kv_store.port", settings.port, says, "choose one from 1024")
        case [_, *_] as taken:
            yield Said(
                "kv_store.port",
                settings.port,
                f"{_in_use([port for port, _ in taken])} on {LOOPBACK}, and LMCache's server needs "
                "this port and the next",
                f"choose another, or name the server that is there as {kv_store.HOST} and "
                f"{kv_store.PORT} in kv_connector_extra_config",
            )
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    if settings.memory_gb > room:
        says = f"this machine has {room:.1f} GiB"
        yield Said("kv_store.memory_gb", settings.memory_gb, says, "take less")


def _in_use(ports: list[int]) -> str:
    some = ", ".join(map(str, ports[:LISTED])) + (", …" if len(ports) > LISTED else "")
    return f"ports {some} are in use" if len(ports) > 1 else f"port {some} is in use"


def files(case: Case) -> Iterator[Said]:
    for name in _FILES:
        path = getattr(case.topology.gateway, name)
        if path is None:
            continue
        try:
            content = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            yield Said(f"gateway.{name}", path, f"it cannot be read: {reason}")
            continue
        if not content.strip():
            mend = "write one key a line" if name == "api_key_file" else "name another"
            yield Said(f"gateway.{name}", path, "it is empty", mend)


def certificate(case: Case) -> Iterator[Said]:
    gateway = case.topology.gateway
    chain, key = gateway.ssl_certfile, gateway.ssl_keyfile
    if chain is None or key is None:
        for name, path in (("ssl_certfile", chain), ("ssl_keyfile", key)):
            if path is not None:
                says = "a certificate and its private key belong together"
                mend = "give ssl_certfile and ssl_keyfile, or none"
                yield Said(f"gateway.{name}", path, says, mend)
        return
    if not all(map(os.path.isfile, (chain, key))):
        return
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        says = f"with the key {key} it is no usable pair: {reason}"
        yield Said("gateway.ssl_certfile", chain, says, "give a certificate (PEM) and its own key")


def releases(case: Case) -> Iterator[Said]:
    from actors.engine.vllm.compat import check_version
    from actors.engine.vllm.options import InvalidOption

    for table in case.vllm_tables():
        allowed = bool(table.get("allow_untested_vllm"))
        try:
            check_version(case.machine.vllm, allow_untested=allowed)
        except InvalidOption as error:
            yield Said("", None, str(error))


def refused_by_vllm(case: Case) -> Iterator[Said]:
    machine = case.machine
    for table in case.vllm_tables():
        engine = table.engine
        for sentence in refusals(
            engine.model,
            engine.args,
            machine.vllm,
            on_cpu=lambda: machine.on_cpu,
            environ=case.environ,
        ):
            yield Said("", None, sentence)


def models(case: Case) -> Iterator[Said]:
    for table in case.tables():
        check = _vllm_model if table.engine.backend == "vllm" else _sim_model
        yield from check(table, case.environ)


def simulators(case: Case) -> Iterator[Said]:
    from actors.engine.sim.options import InvalidOptionError, parse

    for table in case.tables():
        if table.engine.backend != "sim":
            continue
        try:
            parse({"model": table.engine.model, **table.engine.args})
        except InvalidOptionError as error:
            yield Said("", None, _as_flag(str(error)))


def _obstacle(host: str, port: int) -> Literal["in use", "reserved", "no address"] | None:
    """Why nothing can listen there, if so."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror:
        return "no address"
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen()
        except PermissionError:
            return "reserved"
        except OSError as error:
            return "no address" if error.errno == errno.EADDRNOTAVAIL else "in use"
    return None


def _vllm_model(table: Table, environ: Mapping[str, str]) -> Iterator[Said]:
    """A directory with a model, a name on the hub, or an address that vLLM loads from."""
    model = table.engine.model
    path = Path(model).expanduser()
    if path.is_dir():
        wanted = ("config.json", "params.json")
        if not any((path / name).is_file() for name in wanted) and not any(path.glob("*.gguf")):
            yield _model(table, "the directory holds no model", "it needs a config.json")
    elif path.exists() or _REMOTE.match(model):
        return
    elif model.startswith(("/", ".", "~")) or not _HUB_NAME.fullmatch(model):
        yield _model(table, "there is no such directory", "name one, or a model on the hub")
    elif environ.get("HF_HUB_OFFLINE", "").lower() in _ON and not _cached(model, environ):
        yield _model(
            table,
            "there is no such directory, and with HF_HUB_OFFLINE set it cannot be fetched from the "
            "model hub (it is not in the cache)",
            "name a directory, or unset HF_HUB_OFFLINE",
        )


def _cached(model: str, environ: Mapping[str, str]) -> bool:
    """Whether the model hub's cache has it."""
    home = environ.get("HF_HOME") or Path.home() / ".cache/huggingface"
    cache = Path(environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    return any((cache / f"models--{model.replace('/', '--')}" / "snapshots").glob("*"))


def _sim_model(table: Table, environ: Mapping[str, str]) -> Iterator[Said]:  # noqa: ARG001
    model = table.engine.model
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "tokenizer.json").is_file():
            mend = "name another, or any plain name"
            yield _model(table, "the directory holds no tokenizer.json", mend)
    elif path.exists() or model.startswith(("/", "./", "../", "~")):
        yield _model(
            table,
            "there is no such directory",
            "the simulator takes one with a tokenizer.json, or any plain name",
        )


def _model(table: Table, says: str, mend: str) -> Said:
    return Said(table.path("model"), table.engine.model, says, mend)


def _as_flag(sentence: str) -> str:
    """The simulator names its options as in a file; they are flags here."""
    field, space, rest = sentence.partition(" ")
    return f"--{field.replace('_', '-')}{space}{rest}"


RULES = [
    Rule("gateway-port", gateway_port),
    Rule("gateway-file", files),
    Rule("gateway-certificate", certificate),
    Rule("health-port", health_port),
    Rule("kv-events", kv_event_plan),
    Rule("kv-event-ports", kv_event_ports),
    Rule("nixl-ports", side_channels),
    Rule("kv-store", kv_store_room),
    Rule("vllm-release", releases),
    Rule("model", models),
    Rule("vllm-refuses", refused_by_vllm),
    Rule("sim-refuses", simulators),
]

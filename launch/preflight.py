"""What can be known to fail before anything is started: ports, models, certificates, keys."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from launch.kv_events import Plan, plan
from launch.topology import API_KEYS_ENV, Engine, Gateway, Topology
from launch.vllm_rules import cpu_build, refusals

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_REMOTE = re.compile(r"(s3|gs|az|https?|hf)://")
LISTED = 6
"""Ports that a finding names."""
_ON = ("1", "on", "yes", "true")


def api_keys(given: list[str], environ: Mapping[str, str]) -> list[str]:
    """All API keys from flags and from the environment, each once, in order."""
    lines = environ.get(API_KEYS_ENV, "").splitlines()
    return list(dict.fromkeys(key for key in [*given, *(line.strip() for line in lines)] if key))


def check(topology: Topology, vllm_version: Callable[[], str]) -> list[str]:
    """Every finding, one sentence each. `vllm_version` is asked only for `vllm` engines."""
    findings = [
        *_check_gateway(topology.gateway),
        *_check_health(topology),
        *_check_kv_events(plan(topology)),
    ]
    for engine in topology.engines:
        findings += (
            _check_vllm(engine, vllm_version) if engine.backend == "vllm" else _check_sim(engine)
        )
    return list(dict.fromkeys(findings))


def _check_gateway(gateway: Gateway) -> Iterator[str]:
    yield from _check_port(gateway.host, gateway.port)
    for name in ("api_key_file", "ssl_certfile", "ssl_keyfile", "chat_template"):
        path = getattr(gateway, name)
        if path is None:
            continue
        try:
            content = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            yield f"{_flag(name)} {path} cannot be read: {reason}"
            continue
        if not content.strip():
            yield f"{_flag(name)} {path} is empty" + (
                ": write one key a line" if name == "api_key_file" else ""
            )
    yield from _check_certificate(gateway)


def _check_health(topology: Topology) -> Iterator[str]:
    health = topology.health
    if health.port is None:
        return
    if health.port == topology.gateway.port:
        yield f"--health-port {health.port} is the gateway's: choose another"
        return
    match _obstacle(health.host, health.port):
        case "in use":
            yield f"port {health.port} on {health.host} is in use: choose another --health-port"
        case "reserved":
            yield f"port {health.port} is reserved for root: choose --health-port from 1024"
        case "no address":
            yield f"--health-host {health.host} is no address of this machine: try 127.0.0.1"


def _check_kv_events(kv_events: Plan) -> Iterator[str]:
    yield from kv_events.findings
    if kv_events.findings:
        return
    taken: dict[str, list[str]] = {}
    for host, port in (place for reader in kv_events.readers for place in reader.ports):
        match _obstacle(host, port):
            case "in use":
                taken.setdefault(host, []).append(str(port))
            case "reserved":
                yield f"port {port} is reserved for root: choose --kv-event-port from 1024"
                return
            case "no address":
                yield f"--kv-event-host {host} is no address of this machine: try 127.0.0.1"
                return
    for host, ports in taken.items():
        some = ", ".join(ports[:LISTED]) + (", …" if len(ports) > LISTED else "")
        many = "ports" if len(ports) > 1 else "port"
        yield (
            f"{many} {some} on {host}, for KV events, {'are' if len(ports) > 1 else 'is'} in use: "
            "choose others with --kv-event-port, or --no-kv-events"
        )


def _check_port(host: str, port: int) -> Iterator[str]:
    match _obstacle(host, port):
        case "in use":
            yield f"port {port} on {host} is in use: choose another with --port"
        case "reserved":
            yield f"port {port} is reserved for root: choose one from 1024 with --port"
        case "no address":
            yield f"--host {host} is no address of this machine: try 127.0.0.1 or 0.0.0.0"


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


def _check_certificate(gateway: Gateway) -> Iterator[str]:
    certificate, key = gateway.ssl_certfile, gateway.ssl_keyfile
    if (certificate is None) != (key is None):
        yield "--ssl-certfile and --ssl-keyfile belong together: give both or none"
    if certificate is None or key is None or not all(map(os.path.isfile, (certificate, key))):
        return
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        yield f"--ssl-certfile {certificate} and --ssl-keyfile {key} are no usable pair: {reason}"


def _check_vllm(engine: Engine, vllm_version: Callable[[], str]) -> Iterator[str]:
    from actors.engine.vllm.compat import check_version
    from actors.engine.vllm.options import InvalidOption

    try:
        check_version(vllm_version(), allow_untested=bool(engine.args.get("allow_untested_vllm")))
    except InvalidOption as error:
        yield str(error)
    yield from _check_model(engine.model)
    yield from refusals(engine.model, engine.args, vllm_version(), on_cpu=cpu_build)


def _check_model(model: str) -> Iterator[str]:
    """A directory with a model, a name on the hub, or an address that vLLM loads from."""
    path = Path(model).expanduser()
    if path.is_dir():
        wanted = ("config.json", "params.json")
        if not any((path / name).is_file() for name in wanted) and not any(path.glob("*.gguf")):
            yield f"model {model}: the directory holds no model (no config.json)"
    elif path.exists() or _REMOTE.match(model):
        return
    elif model.startswith(("/", ".", "~")) or not _HUB_NAME.fullmatch(model):
        yield f"model {model}: there is no such directory"
    elif os.environ.get("HF_HUB_OFFLINE", "").lower() in _ON and not _cached(model):
        yield (
            f"model {model}: there is no such directory, and with HF_HUB_OFFLINE set it cannot be "
            "fetched from the model hub (it is not in the cache)"
        )


def _cached(model: str) -> bool:
    """Whether the model hub's cache has it."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    return any((cache / f"models--{model.replace('/', '--')}" / "snapshots").glob("*"))


def _check_sim(engine: Engine) -> Iterator[str]:
    from actors.engine.sim.options import InvalidOptionError, parse

    path = Path(engine.model).expanduser()
    if path.is_dir():
        if not (path / "tokenizer.json").is_file():
            yield f"model {engine.model}: the directory holds no tokenizer.json"
    elif path.exists() or engine.model.startswith(("/", "./", "../", "~")):
        yield (
            f"model {engine.model}: there is no such directory; the simulator takes one with a "
            "tokenizer.json, or any plain name"
        )
    try:
        parse({"model": engine.model, **engine.args})
    except InvalidOptionError as error:
        yield _as_flag(str(error))


def _as_flag(sentence: str) -> str:
    """The simulator names its options as in a file; they are flags here."""
    field, space, rest = sentence.partition(" ")
    return _flag(field) + space + rest


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"

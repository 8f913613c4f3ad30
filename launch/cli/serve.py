"""`callboard serve`: the command line of one topology with one model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast, get_args

from launch.build import Built, InvalidTopology, build
from launch.cli.console import OK, USAGE, Failure, complain, say
from launch.cli.options import serve_parser
from launch.cli.run import serve_topology
from launch.environment import environment_layer
from launch.flags.cache import VllmMissing
from launch.flags.line import canonical, is_option, take
from launch.flags.router import router_settings
from launch.flags.table import nearest
from launch.flags.tables import Tables
from launch.layers import Layer
from launch.topology import Backend

_GATEWAY = (
    "host",
    "port",
    "api_key_file",
    "ssl_certfile",
    "ssl_keyfile",
    "chat_template",
    "migration_limit",
    "migration_wait",
)
_PLACES = {
    ("gateway", "count"): "--gateways",
    ("log", "level"): "--log-level",
    ("log", "format"): "--log-format",
    ("router", "count"): "--routers",
    ("kv_events", "enabled"): "--no-kv-events",
    ("kv_events", "host"): "--kv-event-host",
    ("kv_events", "port"): "--kv-event-port",
    ("kv_events", "index"): "--kv-index",
    ("health", "host"): "--health-host",
    ("health", "port"): "--health-port",
    ("engine", "count"): "--engines",
    ("engine", "backend"): "--engine",
    ("engine", "model"): "MODEL",
}
_INSTEAD = {
    "--config": "write a topology file, see `callboard up --help`",
    "--enable-auto-tool-choice": "leave it out, --tool-call-parser alone turns tool calls on",
    "--api-server-count": "use --gateways",
    "--uvicorn-log-level": "use --log-level",
    "--disable-uvicorn-access-log": "use --log-level",
}
"""What to do instead of well-known flags of vLLM's own API server."""


def run(words: list[str]) -> int:
    topics = [word.partition("=")[2] for word in words if word.startswith("--help=")]
    if topics:
        from launch.cli.flag_help import flag_help

        say(flag_help(topics[0], Tables(complain)))
        return OK
    if "-h" in words or "--help" in words:
        say(serve_parser().format_help().rstrip())
        return OK
    return serve_topology(*parse(words, Tables(complain)))


def parse(words: Sequence[str], tables: Tables) -> tuple[Built, list[str]]:
    """The topology that the flags describe, and the API keys among them.

    Raises `Failure` with every finding.
    """
    if not words:
        raise Failure("say which model: callboard serve MODEL", code=USAGE)
    backend = _backend(words)
    try:
        table = tables.of(backend)
    except VllmMissing as error:
        raise Failure(str(error), code=USAGE) from None
    taken = take(words, table, frozenset(serve_parser().options))
    named = taken.args.pop("model", None)
    parser = serve_parser(model=named is None)
    own, unknown = parser.parse_known_args(taken.rest)
    findings = [*taken.findings, *_strangers(unknown, backend, tables, parser.options)]
    try:
        flags = Layer(
            "flag",
            _raw(own),
            partial(_place, taken.spelling),
            text=True,
            engine=_given({"model": named or own.model, "backend": backend, "count": own.engines}),
            arguments=taken.args,
        )
        built = build([environment_layer(os.environ), flags], tables.of)
    except InvalidTopology as error:
        raise Failure(*findings, *map(str, error.findings), code=USAGE) from None
    if findings:
        raise Failure(*findings, code=USAGE)
    return built, own.api_key


def _backend(words: Sequence[str]) -> Backend:
    """The engine's kind: which flags there are depends on it, so it is looked for first."""
    value = "vllm"
    for place, word in enumerate(words):
        if word == "--engine" and place + 1 < len(words):
            value = words[place + 1]
        elif word.startswith("--engine="):
            value = word.partition("=")[2]
    if value not in get_args(Backend):
        raise Failure(f"--engine {value}: choose vllm or sim", code=USAGE)
    return cast("Backend", value)


def _raw(own: argparse.Namespace) -> dict[str, Any]:
    """What was given, in the form of a topology file."""
    gateway = {name: getattr(own, name) for name in _GATEWAY}
    raw = {
        "name": own.name,
        "drain_timeout": own.drain_timeout,
        "gateway": _given({**gateway, "count": own.gateways}),
        "router": _given({"count": own.routers, **_of_router(own)}),
        "kv_events": _given(
            {
                "enabled": "false" if own.no_kv_events else None,
                "host": own.kv_event_host,
                "port": own.kv_event_port,
                "index": "true" if own.kv_index else None,
            }
        ),
        "health": _given({"host": own.health_host, "port": own.health_port}),
        "log": _given({"level": own.log_level, "format": own.log_format}),
    }
    return _given(raw)


def _of_router(own: argparse.Namespace) -> dict[str, Any]:
    return {setting.field: getattr(own, f"router_{setting.field}") for setting in router_settings()}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _place(spelling: Mapping[str, str], section: str, key: str) -> str:
    """`spelling` of the engine's arguments."""
    if section.startswith("engine[") and key in spelling:
        return spelling[key]
    flag = key if section != "router" else f"router-{key}"
    place = _PLACES.get((section.partition("[")[0], key))
    return place or f"--{flag.replace('_', '-')}"


def _strangers(
    words: Sequence[str], backend: Backend, tables: Tables, own: Iterable[str]
) -> list[str]:
    """What is to be said of words that neither Callboard nor the engine knows."""
    options = [canonical(word.partition("=")[0]) for word in words if is_option(word)]
    if not options:
        # Words after an unknown flag are most likely its values.
        return [f"unexpected word {word!r}: there is one MODEL" for word in words]
    return [_stranger(option, backend, tables, own) for option in options]


def _stranger(option: str, backend: Backend, tables: Tables, own: Iterable[str]) -> str:
    name = option.partition(".")[0]
    here, other = tables.at_hand(backend), tables.at_hand("sim" if backend == "vllm" else "vllm")
    if other is not None and name in other.by_option:
        if backend == "vllm":
            return f"{name} is a flag of the simulator: leave it out, or add --engine sim"
        return f"{name} is a flag of vLLM that the simulator does not have: leave it out"
    vllm = tables.at_hand("vllm")
    if name in _INSTEAD or (vllm is not None and name in vllm.server_flags):
        instead = _INSTEAD.get(name, "leave it out, Callboard's gateway takes that server's place")
        return f"{name} is a flag of vLLM's own API server: {instead}"
    near = nearest(name, [*own, *(here.by_option if here is not None else ())])
    hint = f"did you mean {near}?" if near else f"`callboard serve --help={backend}` lists them all"
    return f"unknown flag {option}: {hint}"

"""From a topology to its run: the checks before it, and where its secrets go."""

from __future__ import annotations

import os
import signal
import time

import msgspec

from launch.build import Built
from launch.check import check, errors
from launch.cli.console import USAGE, Failure, complain
from launch.preflight import api_keys
from launch.rundir import RunDirError, check_free
from launch.topology import API_KEYS_ENV, Topology


def serve_topology(built: Built, given_keys: list[str]) -> int:
    """Blocks until the topology ended. Returns the exit code.

    Raises `Failure` where it cannot be started, or failed.
    """
    started = time.monotonic()
    # Until the supervisor takes signals in hand, SIGTERM ends the command as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    topology, tokens = _without_tokens(built.topology)
    findings = [*built.notes, *check(topology, os.environ)]
    if wrong := [*_obstacles(topology.name, tokens), *map(str, errors(findings))]:
        raise Failure(*wrong, code=USAGE)
    for finding in findings:
        complain(f"callboard: {finding}")
    # From here on what is imported is heavy, and needed.
    from launch.cli.foreground import run_in_foreground

    keys = api_keys(given_keys, os.environ)
    environment = {API_KEYS_ENV: "\n".join(keys)} if keys else {}
    if tokens:
        environment["HF_TOKEN"] = tokens.pop()
    return run_in_foreground(topology, keys, environment, started)


def _obstacles(name: str, tokens: set[str]) -> list[str]:
    findings = []
    try:
        check_free(name)
    except RunDirError as error:
        findings.append(str(error))
    if len(tokens) > 1:
        findings.append("engines have different hf_token values: one topology takes one")
    return findings


def _without_tokens(topology: Topology) -> tuple[Topology, set[str]]:
    """The topology without the model hub's tokens, which go by the environment, and those."""
    tokens = set()
    engines = []
    for engine in topology.engines:
        args = dict(engine.args)
        if isinstance(args.get("hf_token"), str):
            tokens.add(args.pop("hf_token"))
        engines.append(msgspec.structs.replace(engine, args=args))
    return msgspec.structs.replace(topology, engines=engines), tokens

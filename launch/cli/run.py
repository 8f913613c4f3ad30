"""Runs a topology in the foreground: checks, progress, the line to paste, logs."""

from __future__ import annotations

import os
import time

import msgspec

from launch.cli.console import FAILED, INTERRUPTED, OK, USAGE, Failure, say
from launch.preflight import api_keys, check
from launch.rundir import RunDirError, claim, release
from launch.topology import API_KEYS_ENV, Topology

SUPERVISOR = "supervisor/0"


def serve_topology(topology: Topology, given_keys: list[str]) -> int:
    """Blocks until the topology ended. Returns the exit code.

    Raises `Failure` where it cannot be started, or failed.
    """
    started = time.monotonic()
    findings = check(topology, _vllm_version)
    topology, tokens = _without_tokens(topology)
    if len(tokens) > 1:
        findings.append("engines have different hf_token values: one topology takes one")
    if findings:
        raise Failure(*findings, code=USAGE)
    keys = api_keys(given_keys, os.environ)
    environment = {API_KEYS_ENV: "\n".join(keys)} if keys else {}
    if tokens:
        environment["HF_TOKEN"] = tokens.pop()
    try:
        run_dir = claim(topology.name)
    except RunDirError as error:
        raise Failure(str(error)) from None
    # From here on what is imported is heavy, and needed.
    from launch.cli.display import Display
    from launch.cli.ready import ready_text
    from launch.logs import configure_logging
    from launch.supervisor.run import Plan, Progress, run_topology

    served = False

    def on_ready() -> None:
        nonlocal served
        served = True
        display.ready(ready_text(topology, keys, time.monotonic() - started))

    def on_progress(progress: Progress) -> None:
        display.progress(progress.actor, progress.state, progress.detail)

    plan = Plan(
        name=topology.name,
        document=topology.document(),
        actors=topology.actors(api_keys=bool(keys)),
        environment=environment,
        log_level=topology.log.level,
    )
    try:
        configure_logging(
            level=topology.log.level,
            fmt="json",
            actor=SUPERVISOR,
            incarnation=time.time_ns() // 1_000_000,
            file=run_dir.log_file(SUPERVISOR),
        )
        with Display(list(plan.actors), run_dir.logs, topology.log.format, started) as display:
            reason = run_topology(plan, run_dir, on_progress=on_progress, on_ready=on_ready)
    finally:
        release(run_dir)
    if reason:
        raise Failure(reason, code=FAILED)
    if served:
        say("stopped: every request was finished or told, no process is left")
    return OK if served else INTERRUPTED


def _vllm_version() -> str:
    from launch.flags.cache import installed

    found = installed()
    return found.version if found is not None else "unknown"


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

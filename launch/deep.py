"""vLLM's own opinion of each kind of engine: its configuration is built, no model is loaded.

vLLM is imported in a process of its own, once for all engines: `python -m launch.deep FILE`, with
their options on stdin, writes to FILE what it refuses.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from launch.actors import actors_of
from launch.connectors import by_table
from launch.findings import Finding
from launch.topology import Topology

LIMIT = 300.0
"""Seconds; importing vLLM takes 10 to 20, each configuration less than one."""
_OF_ONE_LIFE = ("kv_events_config", "environment")
"""Options that differ between equal engines, by ports only."""


class Refused(msgspec.Struct, frozen=True):
    """`place` of the engine's table, and vLLM's reason, the last line of it."""

    place: int
    reason: str


def refusals(topology: Topology) -> list[Finding]:
    """What vLLM refuses, for the first engine of each distinct kind."""
    asked = _distinct(topology)
    if not asked:
        return []
    with tempfile.TemporaryDirectory(prefix="callboard-") as folder:
        target = Path(folder) / "refused.json"
        try:
            said = _ask(asked, target)
        except subprocess.TimeoutExpired:
            return [_finding("", f"vLLM did not answer within {LIMIT:.0f} s", "")]
        try:
            refused = msgspec.json.decode(target.read_bytes(), type=list[Refused])
        except (OSError, msgspec.DecodeError):  # it ended before it could write its answer
            reason = (said.strip() or "no reason given").splitlines()[-1]
            return [_finding("", f"vLLM cannot be asked: {reason}", "")]
    return [
        _finding(
            f"engine[{one.place}]",
            one.reason,
            f"engine[{one.place}], {topology.engines[one.place].model}",
        )
        for one in refused
    ]


def _distinct(topology: Topology) -> dict[int, dict[str, Any]]:
    """Options by the place of the first table that has them."""
    actors = actors_of(topology, api_keys=False)
    seen: dict[bytes, int] = {}
    found = {}
    for name, place, engine in by_table(topology):
        if engine.backend != "vllm":
            continue
        given = actors[f"engine/{name}"]
        options = {key: value for key, value in given.items() if key not in _OF_ONE_LIFE}
        if seen.setdefault(msgspec.json.encode(options, order="sorted"), place) == place:
            found[place] = options
    return found


def _ask(asked: dict[int, dict[str, Any]], target: Path) -> str:
    """What the process said, for when it wrote no answer."""
    # Appended, not inserted: nothing beside our packages may come before the standard library.
    root = str(Path(__file__).parents[1])
    program = (
        f"import sys; sys.path.append({root!r}); from launch.deep import main; main(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(target)],
        input=msgspec.json.encode(asked),
        env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    return done.stderr.decode(errors="replace")


def _finding(where: str, says: str, given: str) -> Finding:
    return Finding(severity="error", rule="vllm-config", where=where, given=given, says=says)


def main(target: str) -> None:
    """The other side: in the process that imports vLLM."""
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=dict[int, dict[str, Any]])
    refused = [
        Refused(place, reason)
        for place, options in asked.items()
        if (reason := _try(options)) is not None
    ]
    Path(target).write_bytes(msgspec.json.encode(refused))


def _try(options: dict[str, Any]) -> str | None:
    """Why vLLM refuses these options, None where it takes them."""
    import vllm
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
    from vllm.platforms import current_platform

    from actors.engine.vllm import environment
    from actors.engine.vllm.arguments import engine_arguments
    from actors.engine.vllm.options import split_options

    try:
        _, given = split_options({k: v for k, v in options.items() if k != "backend"})
        on_cpu = current_platform.is_cpu()
        if on_cpu:
            environment.bound_kv_cache(given)
        arguments = engine_arguments(given, version=vllm.__version__, on_cpu=on_cpu)
        config = arguments.create_engine_config()
        if config.kv_transfer_config is not None:
            KVConnectorFactory.get_connector_class(config.kv_transfer_config)
    except Exception as error:  # noqa: BLE001  whatever vLLM raises is why it would not start
        return reason_of(error)
    return None


def reason_of(error: Exception) -> str:
    """One line. Pydantic's errors have their reason in the line that ends in its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    typed = [line for line in lines if " [type=" in line]
    said = typed[0] if typed else " ".join(lines[:2])
    return said.partition(" [type=")[0].removeprefix("Value error, ") or type(error).__name__

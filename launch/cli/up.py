"""`callboard up`: a topology from a TOML file."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from launch.build import Built, InvalidTopology, build
from launch.cli.console import USAGE, Failure, Parser, complain
from launch.cli.run import serve_topology
from launch.environment import environment_layer
from launch.flags.cache import VllmMissing
from launch.flags.tables import Tables
from launch.layers import Layer

EPILOG = """
A topology file, all but the engines' models optional:
  name = "default"
  drain_timeout = 30         # seconds for requests that have begun

  [gateway]
  host = "127.0.0.1"         # also: api_key_file, ssl_certfile, ssl_keyfile,
  port = 8000                # chat_template, max_body_bytes, max_inflight,
  count = 1                  # migration_limit, migration_wait

  [router]
  count = 1                  # 0: gateways place by load
  policy = "kv"              # and all that `callboard tune router` shows

  [kv_events]
  port = 20080               # of the first rank; host = "127.0.0.1"
  enabled = true             # index = true: for `callboard kv match`

  [health]
  port = 8080                # /live, /ready, /health; without it only messages
  limits = { stopped = 2 }   # seconds until something is called hung

  [supervision]
  restarts = 5               # unexpected ends within window = 60 seconds

  [[supervision.group]]
  actors = ["router"]        # kinds or ids; strategy = "rest-for-one", "all"
  required = false           # without it the rest goes on

  [log]
  level = "info"             # format = "auto"

  [[engine]]
  model = "Qwen/Qwen3-0.6B"
  count = 2                  # two equal engines
  max_model_len = "8K"       # any engine flag, as in `callboard serve`
  compilation_config = { mode = 3 }
  kv_events = true           # else its role decides: decode engines have none
  # whoever else publishes what a rank holds in lower tiers:
  # kv_sources = [{ name = "lmcache", endpoint = "tcp://127.0.0.1:5558" }]

  [[engine]]
  name = "demo"
  backend = "sim"
  model = "demo"

Paths are relative to the file. API keys: CALLBOARD_API_KEY, or api_key_file.
"""

_PATHS = ("api_key_file", "ssl_certfile", "ssl_keyfile", "chat_template")


def run(words: list[str]) -> int:
    parser = Parser("up", "Serve what a topology file describes, until Ctrl-C.", EPILOG)
    parser.add_argument("file", metavar="FILE", help="the topology file (TOML)")
    parser.add_argument("--name", help="name of the topology, instead of the file's")
    arguments = parser.parse_args(words)
    built = read(Path(arguments.file), Tables(complain), name=arguments.name)
    return serve_topology(built, [])


def read(file: Path, tables: Tables, *, name: str | None = None) -> Built:
    """The topology in `file`. Raises `Failure` with every finding."""
    try:
        return load(file, tables, name=name)
    except InvalidTopology as error:
        raise Failure(*map(str, error.findings), code=USAGE) from None


def load(file: Path, tables: Tables, *, name: str | None = None) -> Built:
    """As `read`, but what is wrong with the topology is raised as `InvalidTopology`."""
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}", code=USAGE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failure(f"{file} is no TOML: {error}", code=USAGE) from None
    if name is not None:
        raw["name"] = name
    _resolve(raw, file.absolute().parent)

    def place(section: str, key: str) -> str:
        return f"{file}: {section}.{key}" if section else f"{file}: {key}"

    try:
        layers = [Layer("file", raw, place), environment_layer(os.environ)]
        return build(layers, tables.of)
    except VllmMissing as error:
        raise Failure(str(error), code=USAGE) from None


def _resolve(raw: dict[str, Any], folder: Path) -> None:
    """Make paths independent of the directory that the command is called in."""
    engines = raw.get("engine")
    tables = [raw.get("gateway"), *(engines if isinstance(engines, list) else ())]
    for table in tables:
        if not isinstance(table, dict):
            continue
        for key in _PATHS:
            value = table.get(key)
            if isinstance(value, str) and (folder / value).is_file():
                table[key] = str(folder / value)
        model = table.get("model")
        if isinstance(model, str) and (folder / model).is_dir() and Path(model) != folder / model:
            # The name that clients use stays as it is written.
            table.setdefault("served_model_name", [model])
            table["model"] = str(folder / model)

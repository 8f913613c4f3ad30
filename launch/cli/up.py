"""`callboard up`: a topology from a TOML file."""

from __future__ import annotations

import os
from pathlib import Path

from launch.cli.console import USAGE, Failure, Parser, complain
from launch.cli.run import serve_topology
from launch.cli.sources import read_or_fail
from launch.flags.tables import Tables

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
  policy = "kv"              # and all of `callboard serve --help=router`

  [disaggregation]           # where engines have role = "prefill" and "decode"
  local_prefill_tokens = 2048  # decode engines compute shorter prompts
  fallback = "local"         # and longer ones without prefill engines

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

Paths are relative to the file. The environment stands above it, and flags above
both: callboard up FILE --name two --port 9000 --max-model-len 4K
API keys: CALLBOARD_API_KEY, or api_key_file.
"""


def run(words: list[str]) -> int:
    if "-h" in words or "--help" in words:
        parser = Parser("up", "Serve what a topology file describes, until Ctrl-C.", EPILOG)
        parser.usage = "callboard up FILE [FLAGS] [any vLLM engine flag]"
        parser.add_argument("file", metavar="FILE", help="the topology file (TOML)")
        parser.parse_args(["--help"])
    if not words or words[0].startswith("-"):
        raise Failure("say which file, before its flags: callboard up FILE [FLAGS]", code=USAGE)
    asked = read_or_fail(words[1:], Tables(complain), os.environ, file=Path(words[0]))
    return serve_topology(asked.built, asked.api_keys)

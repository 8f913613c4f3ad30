"""The flags of `callboard serve` that are Callboard's own."""

from __future__ import annotations

from argparse import SUPPRESS

from launch.cli.console import Parser
from launch.flags.router import router_settings

EPILOG = """
Any engine flag of vLLM can follow, as with `vllm serve`: --dtype float16,
-tp 2, --max-model-len 8K, --compilation-config.mode 3, … Help on them:
  callboard serve --help=vllm          the groups of vLLM's flags
  callboard serve --help=CacheConfig   one group
  callboard serve --help=max-num       flags with these letters
  callboard serve --help=callboard     tool calls, templates, untested releases
  callboard serve --help=sim           the simulator's flags
  callboard serve --help=router        the router's settings

examples:
  callboard serve Qwen/Qwen3-0.6B --max-model-len 8K
  callboard serve ./model --served-model-name small --engines 2 --gateways 2
  callboard serve ./model --tool-call-parser hermes --reasoning-parser qwen3
  CALLBOARD_API_KEY=secret callboard serve ./model --host 0.0.0.0
  callboard serve demo --engine sim --sim-speed 0

Serves until Ctrl-C, which lets running requests finish.
"""


def serve_parser(*, model: bool = True) -> Parser:
    """The parser of all but the engine's flags; with or without the positional MODEL.

    Values stay text: they are checked with the rest of the topology, all at once.
    """
    parser = Parser(
        "serve",
        "Serve one model behind an OpenAI-compatible API.",
        EPILOG,
    )
    parser.usage = "callboard serve MODEL [FLAGS] [any vLLM engine flag]"
    if model:
        parser.add_argument("model", metavar="MODEL", help="model directory, or name on the hub")
    topology = parser.add_argument_group("topology")
    topology.add_argument(
        "--engine", metavar="vllm|sim", help="what runs the model: vllm (default) or a simulator"
    )
    topology.add_argument("--engines", metavar="N", help="equal engines to start (1)")
    topology.add_argument("--gateways", metavar="N", help="gateways that share the port (1)")
    topology.add_argument("--name", help="name of this topology, for `callboard ps` (default)")
    deaths = parser.add_argument_group("ends and deaths")
    deaths.add_argument(
        "--drain-timeout",
        metavar="SECONDS",
        help="what is to end has so long for the requests that it has begun (30)",
    )
    deaths.add_argument(
        "--migration-limit",
        metavar="N",
        help="engines in turn that an answer may lose without a new token (3); 0: none goes on "
        "elsewhere",
    )
    deaths.add_argument(
        "--migration-wait",
        metavar="SECONDS",
        help="so long requests wait where no engine of their model is ready (60)",
    )
    placement = parser.add_argument_group(
        "placement", "each setting of the router has its flag, --router-NAME X: see --help=router"
    )
    placement.add_argument("--routers", metavar="N", help="routers (1); 0: place by load alone")
    placement.add_argument("--router-policy", metavar="NAME", help="how a rank is chosen (kv)")
    for setting in router_settings():
        if setting.field != "policy":
            placement.add_argument(setting.flag, metavar="X", help=SUPPRESS)
    events = parser.add_argument_group("KV events")
    events.add_argument(
        "--kv-event-port",
        metavar="PORT",
        help="of the first rank's events (20080, or "
        "DYN_VLLM_KV_EVENT_PORT); more ports lie up to 3,000 above it",
    )
    events.add_argument(
        "--kv-event-host",
        metavar="HOST",
        help="where they can be read (127.0.0.1); they contain prompts",
    )
    events.add_argument("--kv-index", action="store_true", help="for `callboard kv match`")
    events.add_argument("--no-kv-events", action="store_true", help="publish none")
    http = parser.add_argument_group("HTTP")
    http.add_argument("--host", help="address to listen on (127.0.0.1: this machine only)")
    http.add_argument("--port", help="port to listen on (8000)")
    http.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="key that clients must send; may be repeated. Others on this machine see it in "
        "`ps`: better use CALLBOARD_API_KEY or a file",
    )
    http.add_argument("--api-key-file", metavar="FILE", help="file of keys, one a line")
    http.add_argument("--ssl-certfile", metavar="FILE", help="certificate (PEM): serve HTTPS")
    http.add_argument("--ssl-keyfile", metavar="FILE", help="its private key (PEM)")
    http.add_argument(
        "--chat-template", metavar="FILE", help="Jinja file in place of the model's template"
    )
    health = parser.add_argument_group("health")
    health.add_argument(
        "--health-port",
        metavar="PORT",
        help="of /live, /ready and /health, served apart from the gateways (off)",
    )
    health.add_argument("--health-host", metavar="HOST", help="where they can be asked (127.0.0.1)")
    logs = parser.add_argument_group("logs")
    logs.add_argument("--log-level", metavar="LEVEL", help="debug, info (default), warning, error")
    logs.add_argument(
        "--log-format",
        metavar="FORMAT",
        help="auto (default): warnings, readable, on a terminal; all lines, as JSON, elsewhere. "
        "console or json: all lines",
    )
    return parser

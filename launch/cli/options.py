"""The flags of `callboard serve` that are Callboard's own."""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from launch.cli.console import Parser
from launch.settings import settings

EPILOG = """
Any engine flag of vLLM can follow, as with `vllm serve`: --dtype float16,
-tp 2, --max-model-len 8K, --compilation-config.mode 3, … Help on them:
  callboard serve --help=vllm          the groups of vLLM's flags
  callboard serve --help=CacheConfig   one group
  callboard serve --help=max-num       flags with these letters
  callboard serve --help=callboard     tool calls, templates, untested releases
  callboard serve --help=sim           the simulator's flags
  callboard serve --help=router        the router's settings
  callboard serve --help=dynamo        flags and variables of Dynamo's

examples:
  callboard serve Qwen/Qwen3-0.6B --max-model-len 8K
  callboard serve ./model --served-model-name small --engines 2 --gateways 2
  callboard serve ./model --tool-call-parser hermes --reasoning-parser qwen3
  CALLBOARD_API_KEY=secret callboard serve ./model --host 0.0.0.0
  callboard serve demo --engine sim --sim-speed 0

Serves until Ctrl-C, which lets running requests finish.
"""


class Keep(Action):
    """Keeps the value, and the spelling that it was given by. Two spellings must say the same."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        value = self.const if self.nargs == 0 else values
        spelling, before = getattr(namespace, self.dest, None) or (option_string, value)
        if spelling != option_string and before != value:
            parser.error(f"{option_string} {value} and {spelling} {before}: give one of them")
        setattr(namespace, self.dest, (option_string, value))


HELP: dict[str, list[tuple[str, str, str]]] = {
    "topology": [
        ("engine.backend", "vllm|sim", "what runs the model: vllm (default) or a simulator"),
        ("engine.count", "N", "equal engines to start (1)"),
        ("gateway.count", "N", "gateways that share the port (1)"),
        ("name", "NAME", "name of this topology, for `callboard ps` (default)"),
    ],
    "ends and deaths": [
        (
            "drain_timeout",
            "SECONDS",
            "what is to end has so long for the requests that it has begun (30)",
        ),
        (
            "gateway.migration_limit",
            "N",
            "engines in turn that an answer may lose without a new token (3); 0: none",
        ),
        (
            "gateway.migration_wait",
            "SECONDS",
            "so long requests wait where no engine of their model is ready (60)",
        ),
    ],
    "placement": [
        ("router.count", "N", "routers (1); 0: place by load alone"),
        ("router.policy", "NAME", "how a rank is chosen (kv)"),
    ],
    "KV events": [
        (
            "kv_events.port",
            "PORT",
            "of the first rank's events (20080); more ports lie up to 3,000 above it",
        ),
        ("kv_events.host", "HOST", "where they can be read (127.0.0.1); they contain prompts"),
    ],
    "KV store": [
        ("kv_store.memory_gb", "GIB", "for blocks that LMCache's server keeps (4)"),
        ("kv_store.port", "PORT", "of that server (5555); the next one is its HTTP"),
    ],
    "HTTP": [
        ("gateway.host", "HOST", "address to listen on (127.0.0.1: this machine only)"),
        ("gateway.port", "PORT", "port to listen on (8000)"),
        ("gateway.api_key_file", "FILE", "file of keys, one a line"),
        ("gateway.ssl_certfile", "FILE", "certificate (PEM): serve HTTPS"),
        ("gateway.ssl_keyfile", "FILE", "its private key (PEM)"),
        ("gateway.chat_template", "FILE", "Jinja file in place of the model's template"),
    ],
    "health": [
        (
            "health.port",
            "PORT",
            "of /live, /ready and /health, served apart from the gateways (off)",
        ),
        ("health.host", "HOST", "where they can be asked (127.0.0.1)"),
    ],
    "logs": [
        ("log.level", "LEVEL", "debug, info (default), warning, error"),
        (
            "log.format",
            "FORMAT",
            "auto (default: warnings on a terminal, elsewhere all, as JSON), console, json",
        ),
    ],
    "journals": [
        ("record.dir", "DIR", "where journals go (~/.local/state/callboard/journals)"),
        ("record.limit_mb", "MB", "that each actor keeps of its journal with --record (1024)"),
        ("record.flight_mb", "MB", "that each actor keeps without --record (16); 0: nothing"),
    ],
}
"""What --help shows, by group: path of the setting, its value, and what it does."""
_ABOUT = {
    "KV store": "with --connector lmcache: engines share what one of them has computed",
    "placement": "each setting of the router has its flag, --router-NAME X: see --help=router",
}


def serve_parser(*, model: bool = True, file: bool = False) -> Parser:
    """The parser of all but the engine's flags; with or without the positional MODEL.

    Values stay text: they are checked with the rest of the topology, all at once. `file`: flags
    stand above a topology file.
    """
    parser = Parser(
        "up" if file else "serve",
        "Serve one model behind an OpenAI-compatible API.",
        EPILOG,
    )
    parser.usage = "callboard serve MODEL [FLAGS] [any vLLM engine flag]"
    if model and not file:
        text = "model directory, or name on the hub"
        parser.add_argument("model", metavar="MODEL", nargs="?", help=text)
    add_settings(parser)
    return parser


def add_settings(parser: Parser) -> None:
    """A flag for each setting of Callboard's; help has the usual ones."""
    rest = {setting.path: setting for setting in settings() if setting.flags}
    for title, rows in HELP.items():
        group = parser.add_argument_group(title, _ABOUT.get(title))
        for path, metavar, text in rows:
            short, *more = rest.pop(path).flags
            group.add_argument(short, dest=path, action=Keep, metavar=metavar, help=text)
            for flag in more:
                group.add_argument(flag, dest=path, action=Keep, help=SUPPRESS)
        _add_switches(group, title)
    for path, setting in rest.items():
        for flag in setting.flags:
            parser.add_argument(flag, dest=path, action=Keep, help=SUPPRESS)


def _add_switches(group: Any, title: str) -> None:
    """Flags without a value, and those that set nothing of the topology."""
    if title == "KV events":
        index = {"dest": "kv_events.index", "nargs": 0, "const": "true"}
        group.add_argument("--kv-index", action=Keep, help="for `callboard kv match`", **index)
        enabled = {"dest": "kv_events.enabled", "nargs": 0, "const": "false"}
        group.add_argument("--no-kv-events", action=Keep, help="publish none", **enabled)
    if title == "journals":
        everything = {"dest": "record.everything", "nargs": 0, "const": "true"}
        group.add_argument("--record", action=Keep, help="all that actors do", **everything)
        text = {"dest": "record.with_text", "nargs": 0, "const": "true"}
        group.add_argument("--record-text", action=Keep, help="with token ids and text", **text)
    if title == "HTTP":
        group.add_argument(
            "--api-key",
            action="append",
            default=[],
            metavar="KEY",
            help="key that clients must send; may be repeated. Others on this machine see it in "
            "`ps`: better use CALLBOARD_API_KEY or a file",
        )
    if title == "topology":
        group.add_argument(
            "--dump-config-to",
            metavar="FILE",
            help="write all of it there, with where each value came from; TOML, or JSON (.json)",
        )

"""What is shown when a topology serves: where, what, and a line to paste."""

from __future__ import annotations

import json
import shlex

from launch.topology import API_KEYS_ENV, Engine, Gateway, Topology

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


def base_url(gateway: Gateway) -> str:
    """Where this machine reaches the gateway."""
    host = _EVERYWHERE.get(gateway.host, gateway.host)
    scheme = "https" if gateway.ssl_certfile else "http"
    return (
        f"{scheme}://[{host}]:{gateway.port}"
        if ":" in host
        else f"{scheme}://{host}:{gateway.port}"
    )


def ready_text(topology: Topology, keys: list[str], seconds: float) -> str:
    """`seconds` since the command began."""
    names = list(dict.fromkeys(name for engine in topology.engines for name in _names(engine)))
    url = base_url(topology.gateway)
    # Two lines inside the quotes: it fits 80 columns, and shells take it as it is.
    body = (
        f'{{"model": {json.dumps(names[0])}, "max_tokens": 32,\n'
        '         "messages": [{"role": "user", "content": "Hello!"}]}'
    )
    curl = [f"  curl {url}/v1/chat/completions", "    -H 'Content-Type: application/json'"]
    if topology.gateway.api_key_file or keys:
        key = f"${API_KEYS_ENV}" if len(keys) == 1 else "KEY"
        curl.append(f'    -H "Authorization: Bearer {key}"')
    curl.append(f"    -d {shlex.quote(body)}")
    other = "" if topology.name == "default" else f" --name {topology.name}"
    return "\n".join(
        [
            "",
            f"Ready after {seconds:.1f} s: {url}/v1",
            f"Serving {', '.join(names)}",
            "",
            " \\\n".join(curl),
            "",
            f"Ctrl-C stops it. In another terminal: callboard ps, callboard logs{other}",
            "",
        ]
    )


def _names(engine: Engine) -> list[str]:
    return engine.args.get("served_model_name") or [engine.model]

"""A stand-in for the package lmcache: its server's HTTP, and nothing else."""

from __future__ import annotations

from pathlib import Path

PROGRAM = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

HERE = Path(__file__).parents[2]

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        told = json.loads((HERE / "told.json").read_text())
        body = told[self.path].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

def main():
    (HERE / "called.json").write_text(json.dumps({"words": sys.argv, "pid": os.getpid()}))
    if (HERE / "fail").exists():
        sys.exit(7)
    port = int(sys.argv[sys.argv.index("--http-port") + 1])
    HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
STATUS = """{"is_healthy": HEALTHY, "chunk_size": 256, "storage_manager": {"l1_managers": {
"_default": {"memory_used_bytes": USED, "total_object_count": 3, "memory_total_bytes": 9}}}}"""
METRICS = """\
# HELP lmcache_mp_lookup_requested_tokens_total Total tokens submitted for lookup.
# TYPE lmcache_mp_lookup_requested_tokens_total counter
lmcache_mp_lookup_requested_tokens_total{model_name="a",otel_scope_name="lmcache.lookup"} 1536.0
lmcache_mp_lookup_requested_tokens_total{model_name="b",otel_scope_name="lmcache.lookup"} 256.0
lmcache_mp_lookup_hit_tokens_total{model_name="a",otel_scope_name="lmcache.lookup"} 7.68e+02
python_info{implementation="CPython"} 1.0
"""


def status(*, healthy: bool = True, used: int = 0) -> str:
    return STATUS.replace("HEALTHY", "true" if healthy else "false").replace("USED", str(used))


def install(folder: Path) -> None:
    """`folder` is for PYTHONPATH; `told.json` in it has the answers by path."""
    package = folder / "lmcache" / "cli"
    package.mkdir(parents=True)
    for where in (package.parent, package):
        (where / "__init__.py").touch()
    (package / "main.py").write_text(PROGRAM)

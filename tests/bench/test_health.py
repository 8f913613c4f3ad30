"""What the checks of a port count."""

from __future__ import annotations

import http.server
import threading

from bench.health import PATHS, Checks


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/ready" else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_each_path_in_turns_and_what_is_not_200() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        checks = Checks(server.server_address[1])
        checks.start()
        while len(checks.times) < 2 * len(PATHS):
            checks.join(0.01)
        checks.stop()
        server.shutdown()
        serving.join()
    row = checks.row("x")
    assert row["bad"] == (row["count"] + 1) // len(PATHS)
    assert 0 < row["p50"] <= row["p99"] <= row["max"]

"""`--drain-timeout`: what runs has that long after SIGTERM, and not longer."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.error
import urllib.request

import pytest

from tests.launch.cli.running import GUARD, free_port, serving

SLOW = ("serve", "demo", "--engine", "sim", "--sim-speed", "3")


class Answer(threading.Thread):
    """One streamed answer of so many tokens; `lines` as they came."""

    def __init__(self, port: str, tokens: int) -> None:
        super().__init__(daemon=True)
        body = {"model": "demo", "prompt": "x", "max_tokens": tokens, "stream": True}
        self._request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions",
            json.dumps({**body, "ignore_eos": True}).encode(),
            {"content-type": "application/json"},
        )
        self.begun = threading.Event()
        self.lines: list[str] = []
        self.start()

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self._request, timeout=GUARD) as response:
                for line in response:
                    self.lines.append(line.decode().strip())
                    self.begun.set()
        except (urllib.error.URLError, OSError):
            pass  # cut off: the lines say how far it came


@pytest.mark.parametrize(("timeout", "tokens", "whole"), [("60", 100, True), ("0.5", 8000, False)])
def test_sigterm_gives_what_runs_its_time(run_directory, timeout, tokens, whole) -> None:
    port = free_port()
    with serving(*SLOW, "--port", port, "--drain-timeout", timeout) as served:
        answer = Answer(port, tokens)
        assert answer.begun.wait(GUARD)
        began = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        out, err = served.process.communicate(timeout=GUARD)
        seconds = time.monotonic() - began
        answer.join(GUARD)
        assert served.process.returncode == 0, err
        assert out.endswith("stopped\n")
        assert ("data: [DONE]" in answer.lines and '"error"' not in str(answer.lines)) == whole
        # The default would have waited for 30 s; on a busy machine processes take some to end.
        assert whole or seconds < 20

"""A real engine with an LMCache server that somebody else runs: it comes late, and it hangs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import IO

import httpx
import pytest

from actors.kv_store.asking import ask
from launch.client import Client
from launch.rundir import RunDir
from launch.vllm_rules import cpu_build
from tests.launch.cli.running import callboard, environment, free_port
from tests.real.pair import QUIET, stopped
from tests.real.test_lmcache import CHUNK, GUARD, HUNG, prompt

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("lmcache") is None, reason="needs LMCache"),
]

FILE = """\
name = "elsewhere"
[gateway]
port = {port}
[[engine]]
name = "a"
model = "{model}"
served_model_name = ["a"]
dtype = "float32"
enforce_eager = true
max_model_len = 448
max_num_seqs = 2
num_gpu_blocks_override = 16
[engine.kv_transfer_config]
kv_connector = "LMCacheMPConnector"
kv_role = "kv_both"
[engine.kv_transfer_config.kv_connector_extra_config]
"lmcache.mp.host" = "tcp://127.0.0.1"
"lmcache.mp.port" = {store}
"""


@contextmanager
def server(port: str, http: str, folder: Path) -> Iterator[int]:
    """As an operator starts it. Its pid."""
    words = ["server", "--host", "127.0.0.1", "--port", port, "--http-host", "127.0.0.1"]
    words += ["--http-port", http, "--l1-size-gb", "0.25", "--eviction-policy", "LRU"]
    words += ["--chunk-size", str(CHUNK), "--supported-transfer-mode", "auto"]
    program = [str(Path(sys.executable).parent / "lmcache"), *words]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            program,
            env=environment(LMCACHE_TRACK_USAGE="false"),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process.pid
        finally:
            process.kill()
            process.wait(GUARD)


class Up:
    """`callboard up`, and the lines that it shows."""

    def __init__(self, file: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launch.cli", "up", str(file)],
            env=environment(**QUIET),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: Queue[str] = Queue()
        assert self.process.stdout is not None
        self._reader = Thread(target=self._read, args=(self.process.stdout,))
        self._reader.start()

    def until(self, text: str) -> None:
        shown = ""
        while text not in shown:
            line = self._lines.get(timeout=GUARD)
            assert line, f"it ended without {text!r}: {shown}"
            shown += line

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(GUARD)
        self._reader.join(GUARD)

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put("")


def complete(port: str, tokens: list[int]) -> tuple[list[int], int]:
    """The answer, and how many tokens of the prompt were not computed."""
    body = {"model": "a", "prompt": tokens, "max_tokens": 6, "temperature": 0}
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v1/completions",
        json={**body, "ignore_eos": True, "return_token_ids": True},
        timeout=GUARD,
    )
    assert answer.status_code == 200, answer.text
    told = answer.json()
    details = told["usage"].get("prompt_tokens_details") or {}
    return told["choices"][0]["token_ids"], details.get("cached_tokens") or 0


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Of run directories: names of sockets must be short."""
    if not cpu_build():
        pytest.skip("sizes are those of a CPU")
    with tempfile.TemporaryDirectory(prefix="callboard-") as directory:
        monkeypatch.setenv("CALLBOARD_RUN_DIR", directory)
        yield Path(directory)


def test_it_is_used_is_waited_for_and_may_hang(small_model: Path, base: Path) -> None:
    with ExitStack() as stack:
        port, store, http = free_port(), free_port(), free_port()
        file = base / "elsewhere.toml"
        file.write_text(FILE.format(port=port, model=small_model, store=store))
        checked = callboard("check", str(file), **QUIET)
        assert checked.returncode == 0, checked.stdout + checked.stderr

        up = Up(file)
        stack.callback(up.close)
        up.until(f"waits for LMCache's server at tcp://127.0.0.1:{store}, 120 s at most")
        pid = stack.enter_context(server(store, http, base))
        up.until("Ctrl-C stops it")
        with Client(RunDir(base / "elsewhere")) as client:
            assert "kv-store/0" not in client.entries()

        tokens = prompt(1)
        answer, cached = complete(port, tokens)
        assert cached == 0
        for seed in (2, 3):  # they take its blocks away
            complete(port, prompt(seed))
        before = ask("127.0.0.1", int(http)).hit_tokens
        assert complete(port, tokens) == (answer, CHUNK)
        assert ask("127.0.0.1", int(http)).hit_tokens >= before + CHUNK

        with stopped(pid):
            for seed in (4, 5):
                began = time.monotonic()
                complete(port, prompt(seed))
                assert time.monotonic() - began < HUNG
            assert complete(port, tokens)[0] == answer
        logs = callboard("logs", "engine/a", "--name", "elsewhere")
        assert "LMCache server is unhealthy" in logs.stdout

        deadline = time.monotonic() + GUARD
        seeds = iter(range(6, 1_000))
        while True:  # it is used again
            new = prompt(next(seeds))
            complete(port, new)
            for _ in range(2):
                complete(port, prompt(next(seeds)))
            if complete(port, new)[1] == CHUNK:
                break
            assert time.monotonic() < deadline, "the engine does not use the server again"


def test_one_that_never_comes_is_why_nothing_starts(small_model: Path, base: Path) -> None:
    port, store = free_port(), free_port()
    file = base / "never.toml"
    text = FILE.format(port=port, model=small_model, store=store)
    file.write_text(text + '"lmcache.mp.mq_timeout" = 2\n')
    up = Up(file)
    try:
        up.until(
            f"callboard: engine/a did not start: LMCache's server at tcp://127.0.0.1:{store} has "
            "not answered for 2 s; start it, or name another one"
        )
        assert up.process.wait(GUARD) != 0
    finally:
        up.close()

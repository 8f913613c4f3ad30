"""How each server under test is started."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench import peers
from bench.server import Server, free_port

MODEL = peers.ROOT / ".cache/models/SmolLM2-135M-Instruct"
"""The small real model that `make` prepares."""

NOTES = {
    "callboard": "`callboard serve MODEL --engine sim --sim-speed 0`: KV events are published, as "
    "by dynamo-kv's mocker.",
    "callboard-plain": "the same with --no-kv-events, as behind dynamo.",
    "dynamo": "dynamo.frontend (round-robin) and dynamo.mocker --speedup-ratio 1000000 (0, which "
    "its help calls infinite, is slower: 380 ms an answer).",
    "dynamo-kv": "the same with the frontend's --router-mode kv.",
    "vllm": "`vllm serve` with a bench-only executor that answers every scheduled request with a "
    "token at once (bench/peers/null_executor.py): its own scheduler, processes, tokenizing, "
    "detokenizing and HTTP, without a model. It merges tokens into few lines: less work than the "
    "others do.",
    "vllm-lines": "the same with the merging taken out (bench/peers/line_per_token.py).",
}

MERGES = {"vllm"}
"""Servers that are let send fewer lines than tokens; the table shows how many."""

GPU = shutil.which("nvidia-smi")
VLLM_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""Where there is no GPU: the small cache and the quick start, for all that run vLLM."""

QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}

Maker = Callable[[Path], Server]


def gateways(model: Path, vllm_python: str) -> dict[str, Maker]:
    """The contestants of bench.gateway. A maker takes a scratch directory for logs and state."""
    return {
        "callboard": lambda scratch: callboard(
            model, ["--engine", "sim", "--sim-speed", "0"], scratch
        ),
        "callboard-plain": lambda scratch: callboard(
            model, ["--engine", "sim", "--sim-speed", "0", "--no-kv-events"], scratch
        ),
        "dynamo": lambda scratch: dynamo(model, scratch, "round-robin"),
        "dynamo-kv": lambda scratch: dynamo(model, scratch, "kv"),
        "vllm": lambda scratch: vllm_without_model(
            model, "null_executor.NullExecutor", scratch, vllm_python
        ),
        "vllm-lines": lambda scratch: vllm_without_model(
            model, "line_per_token.LinePerToken", scratch, vllm_python
        ),
    }


def callboard(
    model: Path, flags: Iterable[str], scratch: Path, environment: dict[str, str] | None = None
) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "launch.cli", "serve", str(model), f"--port={port}"]
    return Server(
        [[*command, f"--name=bench-{port}", *flags]],
        port,
        scratch / "log",
        environment=paths() | (environment or {}),
        patience=400,
    )


def vllm_serve(
    model: Path,
    flags: Iterable[str],
    scratch: Path,
    python: str = sys.executable,
    environment: dict[str, str] | None = None,
) -> Server:
    port = free_port()
    # What `vllm serve` runs; that command itself fails where the distribution is called vllm-cpu.
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    return Server(
        [[*command, "--host=127.0.0.1", f"--port={port}", *flags]],
        port,
        scratch / "log",
        ready="/health",
        environment=paths() | QUIET | (environment or {}),
        patience=400,
    )


def vllm_without_model(model: Path, executor: str, scratch: Path, python: str) -> Server:
    flags = [f"--distributed-executor-backend=bench.peers.{executor}", "--served-model-name=bench"]
    flags += ["--dtype=float32", "--block-size=32"]
    return vllm_serve(model, flags, scratch, python, VLLM_CPU)


def dynamo(
    model: Path, scratch: Path, router: str, engine: Iterable[str] = ("--speedup-ratio=1000000",)
) -> Server:
    """Frontend and mocker (with the flags `engine`), file discovery, TCP requests, ZMQ events."""
    port = free_port()
    python = peers.python("dynamo")
    frontend = [python, "-m", "dynamo.frontend", "--http-host=127.0.0.1", f"--http-port={port}"]
    mocker = [python, "-m", "dynamo.mocker", "--model-path", str(model), "--model-name=bench"]
    store = scratch / "discovery"
    store.mkdir(parents=True)
    return Server(
        [[*frontend, f"--router-mode={router}"], [*mocker, *engine]],
        port,
        scratch / "log",
        ready="/v1/models",
        needle=b'"bench"',
        environment={
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_FILE_KV": str(store),
            "DYN_REQUEST_PLANE": "tcp",
            "DYN_EVENT_PLANE": "zmq",
            "DYN_LOG": "warn",
            "HF_HUB_OFFLINE": "1",
        },
    )


def versions(names: Iterable[str]) -> dict[str, Any]:
    return {name: peers.version("dynamo") for name in names if name.startswith("dynamo")}


def paths() -> dict[str, str]:
    """The project's packages for a child that may run under another interpreter."""
    paths = [str(peers.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}

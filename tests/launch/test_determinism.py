"""Cores do the same with the same events, in whatever process: nothing but events decides."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from launch.cores import CORES
from tests.launch.cli.running import callboard, free_port, serving

ROOT = Path(__file__).parents[2]
SOURCES = ("actors", "bus", "launch", "schemas")
FORBIDDEN = {
    "asyncio",
    "concurrent",
    "datetime",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "sys",
    "threading",
    "time",
    "uuid",
    "zmq",
}
BUILTINS = {"hash", "id", "input", "open", "__import__", "eval", "exec"}
"""`hash` of text and `id` differ from process to process."""


def modules_of(core: str) -> dict[Path, ast.Module]:
    """The module of a core, and all of the project that it imports, however far away."""
    package = CORES[core].rpartition(".")[0]
    found: dict[Path, ast.Module] = {}
    waiting = [Path(*package.split("."), "core.py")]
    while waiting:
        path = waiting.pop()
        if path in found or not (ROOT / path).is_file():
            continue
        tree = found[path] = ast.parse((ROOT / path).read_text())
        for node in ast.walk(tree):
            for name in imported(node):
                if name.partition(".")[0] in SOURCES:
                    module = Path(*name.split("."))
                    waiting += [module.with_suffix(".py"), module / "__init__.py"]
    return found


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


@pytest.mark.parametrize("core", CORES)
def test_a_core_has_nothing_but_its_events(core: str) -> None:
    modules = modules_of(core)
    assert any(path.name == "core.py" for path in modules)
    for path, tree in modules.items():
        for node in ast.walk(tree):
            roots = {name.partition(".")[0] for name in imported(node)}
            assert not roots & FORBIDDEN, f"{path} imports {roots & FORBIDDEN}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in BUILTINS, f"{path}:{node.lineno} {node.func.id}"


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all actors of a topology that has served, changed its size and lost an engine."""
    directory = tmp_path_factory.mktemp("journal")
    runs = tmp_path_factory.mktemp("r")
    port = free_port()
    words = ["serve", "demo", "--engine", "sim", "--engines", "2", "--sim-speed", "20"]
    record = ["--record", "--record-text", "--record-dir", str(directory)]
    with (
        pytest.MonkeyPatch.context() as patch,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        patch.setenv("CALLBOARD_RUN_DIR", str(runs))
        with serving(*words, "--port", port, *record):
            for number in range(12):
                body = {"model": "demo", "prompt": f"{number % 4} times the same " * 40}
                if number == 6:
                    assert callboard("restart", "engine/0").returncode == 0
                answer = client.post("/v1/completions", json={**body, "max_tokens": 8, "n": 2})
                assert answer.status_code == 200, answer.text
            assert callboard("scale", "engine=3").returncode == 0
    return directory


def played(journal: Path, seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.launch.player", str(journal)],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_core_decides_the_same_under_every_hash_seed(journal: Path) -> None:
    first = played(journal, "1")
    for core in CORES.keys() - {"kv-store"}:  # the simulator needs none; see tests/replay
        lines = [line for line in first.splitlines() if line.startswith(f"{core}/")]
        assert lines, core
        assert all(int(line.split()[1]) > 0 for line in lines), lines
    assert played(journal, "2") == first
    assert played(journal, "77") == first

"""Whoever is killed, and whenever: what belongs to it is gone in seconds. Real vLLM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launch.marks import MARK
from launch.scratch import MEMORY
from schemas.memory import PREFIX
from schemas.progress import DIRECTORY
from tests.launch.cli.running import callboard, environment, free_port, serving
from tests.launch.cli.test_kills import actors

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(600)]

FLAGS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4")
QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
GUARD = 240.0
GONE = 5.0
"""Seconds in which everything of the dead is gone."""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where all leave their temporary files; short, since there are sockets among them."""
    with tempfile.TemporaryDirectory(prefix="o-") as path:
        monkeypatch.setenv("TMPDIR", path)
        yield Path(path)


def marked(run_directory: Path) -> list[psutil.Process]:
    """All processes of the topology, whatever became of their parents."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(run_directory / "default"):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + GUARD
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def lives(process: psutil.Process) -> bool:
    """Not a zombie: init may be slow to collect what it inherited, and it holds nothing."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def core_of(engine: int) -> psutil.Process | None:
    try:
        children = psutil.Process(engine).children(recursive=True)
        return next((p for p in children if p.name().startswith("VLLM::")), None)
    except psutil.NoSuchProcess:
        return None


def engine_pid(run_directory: Path) -> int:
    """0 before it is started."""
    for process in marked(run_directory):
        try:
            if "engine/0" in process.cmdline() and "launch.process" in process.cmdline():
                return process.pid
        except psutil.NoSuchProcess:
            continue
    return 0


def ended(supervisor: subprocess.Popen[bytes]) -> bool:
    return supervisor.poll() is not None


def state_of_engine() -> str:
    state: str = actors()["engine/0"]["state"]
    return state


def imports_vllm(engine: int) -> bool:
    return "libtorch" in Path(f"/proc/{engine}/maps").read_text()


@pytest.mark.parametrize(
    ("victim", "phase"),
    [
        ("supervisor", "import"),
        pytest.param("supervisor", "load", marks=pytest.mark.slow),
        ("supervisor", "serving"),
        pytest.param("engine", "import", marks=pytest.mark.slow),
        ("engine", "load"),
        pytest.param("engine", "serving", marks=pytest.mark.slow),
        ("core", "load"),
        ("core", "serving"),
    ],
)
def test_nothing_outlives_its_owner(
    small_model: Path, run_directory: Path, temporary: Path, victim: str, phase: str
) -> None:
    words = ("serve", str(small_model), "--served-model-name", "small", *FLAGS)
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "launch.cli", *words, "--port", free_port()],
        env=environment(**QUIET),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: engine_pid(run_directory) > 0 or ended(supervisor), "no engine was started")
        assert not ended(supervisor)
        engine = engine_pid(run_directory)
        variables = psutil.Process(engine).environ()
        records, memory = Path(variables[DIRECTORY]), variables[PREFIX]
        if phase == "import":
            until(lambda: imports_vllm(engine), "vLLM was not imported")
        else:
            until(lambda: core_of(engine) is not None, "no EngineCore was started")
        core = core_of(engine)
        if phase == "serving":
            until(lambda: ended(supervisor) or state_of_engine() == "ready", "it did not serve")
            assert not ended(supervisor)
        if victim == "supervisor":
            dying = marked(run_directory)
            assert len(dying) >= 6
            supervisor.kill()
        else:
            own = psutil.Process(engine)
            dying = [own, *own.children(recursive=True)]
            pid = core.pid if victim == "core" and core is not None else engine
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + GONE
        while (alive := [p for p in dying if lives(p)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert alive == []
        if victim == "supervisor":
            assert marked(run_directory) == []
        elif phase == "serving":
            until(
                lambda: (
                    actors()["engine/0"]["pid"] not in (0, engine)
                    and actors()["engine/0"]["state"] == "ready"
                ),
                "the engine did not come back",
            )
            assert callboard("down").returncode == 0
        supervisor.wait(GUARD)
    finally:
        supervisor.kill()
        supervisor.wait()
        for process in marked(run_directory):
            process.kill()
    if victim == "supervisor":  # the next start takes what is left
        with serving("serve", "demo", "--engine", "sim", "--port", free_port()) as served:
            assert served.interrupt()[0] == 0
    assert not records.exists()
    assert [path for path in MEMORY.iterdir() if memory in path.name] == []
    assert list(run_directory.iterdir()) == []
    assert list(temporary.iterdir()) == []

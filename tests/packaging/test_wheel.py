"""`pip install .` gives a working command, without tests, torch or vLLM."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "triton", "vllm")
SHIPPED = ("schemas", "bus", "actors", "launch")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
WHEEL = ("wheel", "--no-deps", "--no-build-isolation")
EXTENSIONS = {
    "actors/kv_events/_native.abi3.so",
    "actors/router/index/_native.abi3.so",
    "bus/journal/_redact.abi3.so",
    "schemas/_hashing.abi3.so",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return copied(tmp_path / "source")


def copied(folder: Path) -> Path:
    """The repository without what was built in it: setuptools writes into the tree it builds."""
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for name in (*SHIPPED, "tests", "bench"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = copied(folder / "source")
    subprocess.run([*PIP, *WHEEL, "--wheel-dir", str(folder), str(source)], check=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel. What it depends on is lent by this one's packages."""
    environment = tmp_path_factory.mktemp("installed")
    venv.create(environment, with_pip=False)
    (site,) = environment.glob("lib/python*/site-packages")
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Outside the repository, so that only what the wheel holds is there."""
    return subprocess.run(
        [str(installed / "bin/python"), *command],
        cwd=installed,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_wheel_holds_every_module_of_the_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {
        str(file.relative_to(ROOT))
        for name in SHIPPED
        for suffix in ("*.py", "*.pyi")
        for file in (ROOT / name).rglob(suffix)
    }
    built = EXTENSIONS if shutil.which("gcc") else set()
    assert held == modules | built | {f"{name}/py.typed" for name in SHIPPED}


def test_the_router_uses_its_extension_if_there_is_one(installed):
    program = "from actors.router.index import Index; print(Index.implementation)"
    found = run(installed, "-c", program)
    assert found.stdout == ("native\n" if shutil.which("gcc") else "python\n"), found.stderr


def test_without_a_compiler_the_installation_goes_on_and_the_router_works(source, tmp_path):
    subprocess.run(
        [*PIP, *WHEEL, "--wheel-dir", str(tmp_path), str(source)],
        env={**os.environ, "CC": "false"},
        check=True,
    )
    (made,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        assert not EXTENSIONS & set(archive.namelist())
        archive.extractall(tmp_path / "unpacked")
    program = "from actors.router.index import Index; print(Index.implementation)"
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "unpacked",
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "python\n"


def test_the_command_works(installed):
    (script,) = (installed / "lib").glob("python*/site-packages/bin/callboard")
    found = run(installed, str(script), "--help")
    assert found.returncode == 0, found.stderr
    assert "callboard serve" in found.stdout


def test_the_installed_packages_are_those_of_the_wheel(installed):
    found = run(installed, "-c", "import launch; print(launch.__file__)")
    assert found.stdout.startswith(str(installed)), found.stderr


def test_no_part_of_a_simulated_topology_imports_torch_or_vllm(installed):
    program = f"""
import pkgutil, sys, importlib
for package in ("schemas", "bus", "actors.config", "actors.router", "actors.gateway",
                "actors.engine.sim", "launch.supervisor"):
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        importlib.import_module(module.name)
import actors.engine.actor, launch.cli.serve, launch.cli.run, launch.process
heavy = set({HEAVY}) & set(sys.modules)
sys.exit(f"imported {{sorted(heavy)}}" if heavy else 0)
"""
    found = run(installed, "-c", program)
    assert found.returncode == 0, found.stderr


def test_the_installed_simulator_serves_without_torch_or_vllm(installed, run_directory):
    (site,) = installed.glob("lib/python*/site-packages")
    told = installed / "imported"
    for name in HEAVY:
        # Found before the real one, if that is installed at all.
        trap = f"open({str(told)!r}, 'a').write(__name__)\nraise ImportError(__name__)\n"
        (site / f"{name}.py").write_text(trap)
    # The goal is two seconds, and bench.gateway measures it; here it is a guard, ten times wider.
    assert seconds_until_ready(installed) < 20
    assert not told.exists(), told.read_text()
    assert list(run_directory.iterdir()) == []


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False


def seconds_until_ready(installed: Path) -> float:
    """Starts `callboard serve demo --engine sim`, waits for `/ready`, ends it in order."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (script,) = installed.glob("lib/python*/site-packages/bin/callboard")
    command = (str(script), "serve", "demo", "--engine", "sim", "--port", str(port))
    start = time.monotonic()
    with subprocess.Popen(
        [str(installed / "bin/python"), *command],
        cwd=installed,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if "Ready after" in line:
                    break
            else:
                pytest.fail("it ended before it was ready:\n" + "".join(said))
            while not is_ready(port):
                assert time.monotonic() < start + 30
            seconds = time.monotonic() - start
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
    assert process.returncode == 0
    return seconds

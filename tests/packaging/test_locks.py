"""The lock files agree with each other and with pyproject.toml, and name no host."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
LOCKS = sorted(REQUIREMENTS.glob("*.lock"))
MACHINES = [
    {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "python_version": python,
        "python_full_version": f"{python}.0",
    }
    for machine in ("x86_64", "aarch64")
    for python in ("3.11", "3.12", "3.13")
]


def names(machine: dict[str, str]) -> str:
    return f"{machine['platform_machine']}-{machine['python_version']}"


def pins(name: str, machine: dict[str, str]) -> dict[str, str]:
    """The version of each package that a lock installs on a machine."""
    found: dict[str, str] = {}
    for line in (REQUIREMENTS / f"{name}.lock").read_text().splitlines():
        if line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(machine):
            (version,) = pin.specifier
            assert version.operator == "==", f"{name}.lock: {line!r} is no exact version"
            assert found.setdefault(pin.name, version.version) == version.version
    return found


def test_all_locks_are_there():
    assert [lock.stem for lock in LOCKS] == ["base", "dev", "vllm-cpu", "vllm-cuda"]


@pytest.mark.parametrize("machine", MACHINES, ids=names)
@pytest.mark.parametrize("build", ["vllm-cpu", "vllm-cuda"])
def test_a_package_has_one_version_in_all_locks_of_a_machine(build, machine):
    chosen: dict[str, str] = {}
    for name in ("base", "dev", build):
        for package, version in pins(name, machine).items():
            assert chosen.setdefault(package, version) == version, f"{package} in {name}.lock"


@pytest.mark.parametrize("lock", [lock.stem for lock in LOCKS])
def test_what_callboard_needs_is_in_every_lock_in_a_fitting_version(lock):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = pins(lock, MACHINES[0])
    for need in map(Requirement, project["dependencies"]):
        assert need.specifier.contains(locked[need.name]), need


def test_the_cpu_build_gets_torch_from_where_the_machine_says():
    locked = pins("vllm-cpu", MACHINES[0])
    assert not locked.keys() & {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}
    assert "torch==" in (REQUIREMENTS / "torch-cpu.txt").read_text()


@pytest.mark.parametrize("file", [*REQUIREMENTS.iterdir(), ROOT / "Makefile"], ids=lambda f: f.name)
def test_no_package_index_is_named(file):
    assert "://" not in file.read_text()


def test_what_pip_could_not_do_is_told(tmp_path):
    lock = tmp_path / "some.lock"
    lock.write_text("callboard-no-such-package==1.0\n")
    found = subprocess.run(
        [sys.executable, str(REQUIREMENTS / "install.py"), str(lock)],
        env=os.environ | {"PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 1
    assert "some: pip failed" in found.stderr
    assert "No matching distribution found for callboard-no-such-package==1.0" in found.stderr

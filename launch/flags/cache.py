"""Keeps the table of vLLM's flags: read in milliseconds, extracted once per installation."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from launch.flags.ours import with_ours
from launch.flags.table import Document, FlagTable

EXTRACTION_LIMIT = 180.0
"""Seconds after which an extraction is given up. It takes 10 to 20."""

_FORMAT = 2
_INSTALL = "install it with: pip install 'callboard[vllm]', or use --engine sim"


class VllmMissing(Exception):
    """vLLM, or its table of flags, cannot be had; the text says why and what to do."""


@dataclass(frozen=True)
class Installed:
    """The vLLM that this Python would import. `stamp` changes with every installation."""

    version: str
    package: Path
    stamp: int


def installed() -> Installed | None:
    """The installed vLLM, found without importing it."""
    try:
        spec = importlib.util.find_spec("vllm")
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin:
        return None
    package = Path(spec.origin).parent
    return Installed(_version(package), package, Path(spec.origin).stat().st_mtime_ns)


def vllm_table(tell: Callable[[str], None]) -> FlagTable:
    """The table of the installed vLLM, from the cache or extracted now (`tell` says so).

    Raises `VllmMissing`.
    """
    found = installed()
    if found is None:
        raise VllmMissing(f"vLLM is not installed in this environment: {_INSTALL}")
    file = _cache_file(found)
    if (document := _read(file)) is None:
        tell(f"reading vLLM {found.version}'s flags, once (10 s) …")
        document = _extract(found, file)
    return with_ours(document)


def cached_vllm_table() -> FlagTable | None:
    """The table if the cache has it. Never extracts: for completion and for better errors."""
    found = installed()
    document = _read(_cache_file(found)) if found is not None else None
    return with_ours(document) if document is not None else None


def _version(package: Path) -> str:
    """From the file that vLLM's build writes; asking importlib.metadata costs 50 ms."""
    try:
        text = (package / "_version.py").read_text(encoding="utf-8")
    except OSError:
        text = ""
    match = re.search(r"^__version__\b.*?=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    if match:
        return match[1]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vllm")
    except PackageNotFoundError:
        return "unknown"


def cache_directory() -> Path:
    """`$CALLBOARD_CACHE_DIR`, else `callboard` where this user's caches are. It may not exist."""
    if chosen := os.environ.get("CALLBOARD_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "callboard"


def _cache_file(found: Installed) -> Path:
    key = f"{_FORMAT} {found.package} {found.stamp}".encode()
    digest = hashlib.blake2s(key, digest_size=6).hexdigest()
    return cache_directory() / f"vllm-flags-{found.version}-{digest}.json"


def _read(file: Path) -> Document | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Document)
    except (OSError, msgspec.DecodeError):
        # Not there yet, or from a broken disk: extract it anew.
        return None


def _extract(found: Installed, file: Path) -> Document:
    with tempfile.TemporaryDirectory(prefix="callboard-") as folder:
        target = Path(folder) / "table.json"
        _run(found, target)
        document = _read(target)
        if document is None:
            raise VllmMissing(f"the table of vLLM {found.version}'s flags came out unreadable")
        _keep(target.read_bytes(), file)
    return document


def _run(found: Installed, target: Path) -> None:
    # Appended, not inserted: nothing beside our packages may come before the standard library.
    root = str(Path(__file__).parents[2])
    program = (
        f"import sys; sys.path.append({root!r}); "
        "from launch.flags.extract import main; main(sys.argv[1])"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, str(target)],
            env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=EXTRACTION_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise VllmMissing(
            f"vLLM {found.version} did not tell its flags within {EXTRACTION_LIMIT:.0f} s"
        ) from None
    if done.returncode != 0:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise VllmMissing(f"vLLM {found.version} cannot be imported here: {reason}")


def _keep(content: bytes, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".vllm-flags-")
        with os.fdopen(handle, "wb") as temporary:
            temporary.write(content)
        Path(name).replace(file)
    except OSError:
        # A read-only home: the next start extracts again.
        return

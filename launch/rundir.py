"""The private directory of a running topology: its sockets, pid file, logs and secrets.

One base directory per user, one directory per topology name below it. A topology is running as
long as the process named in its pid file lives.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from launch.marks import sweep
from launch.scratch import Scratch

SOCKET_PATH_LIMIT = 107
"""Bytes that a unix socket's path may have (108 in `sockaddr_un`, less the closing zero)."""

SOCKET_NAME_LIMIT = 44
"""Bytes that a topology keeps free for `/` and the longest socket name below its directory."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_PID_FILE = "pid"


class RunDirError(Exception):
    """The run directory cannot be used; the text says why and what to do."""


class AlreadyRunning(RunDirError):
    """A live topology has this name."""

    def __init__(self, name: str, pid: int) -> None:
        super().__init__(
            f"topology {name!r} is already running (pid {pid}): "
            f"stop it with `callboard down --name {name}`, or choose another --name"
        )
        self.pid = pid


@dataclass(frozen=True)
class RunDir:
    """The directory of one topology. Paths only; `claim` makes it, `release` removes it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def pid_file(self) -> Path:
        return self.path / _PID_FILE

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def config_file(self) -> Path:
        """What ConfigActor starts with: `document`, `actors` (options by id) and `version`."""
        return self.path / "config.json"

    def write_config(
        self,
        document: Mapping[str, Any],
        actors: Mapping[str, Any],
        history: Sequence[Any] = (),
    ) -> int:
        """The next version of the configuration, whole at every time. Returns its number.

        `history` has what earlier versions changed, newest first.
        """
        version: int = self.read_config().get("version", 0) + 1
        content = {
            "document": document,
            "actors": actors,
            "version": version,
            "history": msgspec.to_builtins(history),
        }
        new = self.config_file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_bytes(msgspec.json.encode(content))
        new.replace(self.config_file)
        return version

    def read_config(self) -> dict[str, Any]:
        """Empty where there is none."""
        try:
            config: dict[str, Any] = msgspec.json.decode(self.config_file.read_bytes())
        except FileNotFoundError:
            return {}
        return config

    @property
    def record_file(self) -> Path:
        """What is recorded, and where, until the topology ends: `launch.recording`."""
        return self.path / "record.json"

    @property
    def scratch(self) -> Scratch:
        """The temporary directories of its engines."""
        return Scratch(self.path / "tmp")

    def log_file(self, actor: str) -> Path:
        """`logs/engine-0.log` for `engine/0`: JSON lines."""
        return self.logs / f"{actor.replace('/', '-')}.log"

    def endpoint(self, socket: str) -> str:
        """The ZMQ endpoint of a socket file of this topology. Raises `RunDirError` if too long."""
        path = self.path / socket
        if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
            raise RunDirError(_too_long(self.path))
        return f"ipc://{path}"


@dataclass(frozen=True)
class Running:
    """A topology whose process is alive."""

    run_dir: RunDir
    pid: int

    @property
    def name(self) -> str:
        return self.run_dir.name


def base_directory() -> Path:
    """`$CALLBOARD_RUN_DIR`, else `$XDG_RUNTIME_DIR/callboard`, else `/tmp/callboard-<uid>`.

    XDG_RUNTIME_DIR counts where it exists: after `su` it often names what is not there.
    """
    if chosen := os.environ.get("CALLBOARD_RUN_DIR"):
        return Path(chosen).absolute()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "callboard"
    return Path(f"/tmp/callboard-{os.getuid()}")  # noqa: S108  `_make_base` checks its owner


def check_name(name: str) -> str:
    """`name`, if it can name a topology. Raises `RunDirError`."""
    if not _NAME.fullmatch(name):
        raise RunDirError(
            f"{name!r} cannot name a topology: use 1 to 32 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or digit"
        )
    return name


def claim(name: str) -> RunDir:
    """Make the directory of topology `name` for this process.

    What a dead topology of that name left behind is ended and removed. Raises `AlreadyRunning`
    while a live one has it, `RunDirError` where the directory cannot be private or is too deep.
    """
    base = base_directory()
    run_dir = RunDir(base / check_name(name))
    if len(os.fsencode(run_dir.path)) + SOCKET_NAME_LIMIT > SOCKET_PATH_LIMIT:
        raise RunDirError(_too_long(run_dir.path))
    _make_base(base)
    with _locked(base):
        if (pid := _live_pid(run_dir)) is not None:
            raise AlreadyRunning(name, pid)
        sweep(run_dir.path)
        run_dir.scratch.clear()
        shutil.rmtree(run_dir.path, ignore_errors=True)
        try:
            run_dir.path.mkdir(mode=0o700)
            run_dir.logs.mkdir(mode=0o700)
            pid = os.getpid()
            run_dir.pid_file.write_text(f"{pid} {_start_time(pid)}\n")
        except OSError as error:
            raise RunDirError(f"cannot make {run_dir.path}: {error.strerror}") from error
    return run_dir


def check_free(name: str) -> None:
    """Raises `AlreadyRunning` while a live topology has this name."""
    pid = _live_pid(RunDir(base_directory() / name))
    if pid is not None:
        raise AlreadyRunning(name, pid)


def release(run_dir: RunDir) -> None:
    """Remove the directory of a topology that ended, and the base where it is ours and empty."""
    base = run_dir.path.parent
    with _locked(base):
        run_dir.scratch.clear()
        shutil.rmtree(run_dir.path, ignore_errors=True)
        if "CALLBOARD_RUN_DIR" not in os.environ and not any(base.iterdir()):
            base.rmdir()


def running() -> list[Running]:
    """Every live topology of this user on this machine, by name."""
    base = base_directory()
    try:
        paths = sorted(path for path in base.iterdir() if path.is_dir())
    except OSError:
        # No directory, or none that we may read: nothing of ours runs there.
        return []
    found = ((RunDir(path), _live_pid(RunDir(path))) for path in paths)
    return [Running(run_dir, pid) for run_dir, pid in found if pid is not None]


def _live_pid(run_dir: RunDir) -> int | None:
    """The pid in the pid file, if that very process (same start time) still lives."""
    try:
        pid, started = run_dir.pid_file.read_text().split()
        return int(pid) if _start_time(int(pid)) == started else None
    except (OSError, ValueError):
        # No file, a half-written one, or no such process.
        return None


def _start_time(pid: int) -> str:
    """Clock ticks from boot to the start of the process. Raises `OSError` if there is none."""
    # The command name, field 2, may hold blanks and brackets: count fields from its end.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(pid)
    return fields[19]


def _make_base(base: Path) -> None:
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = base.lstat()
    except OSError as error:
        raise RunDirError(
            f"cannot make the run directory {base}: {error.strerror}; set CALLBOARD_RUN_DIR"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RunDirError(
            f"{base} is not a directory of this user (uid {os.getuid()}): set CALLBOARD_RUN_DIR"
        )
    if found.st_mode & 0o022:
        raise RunDirError(
            f"{base} may be written by others (mode {stat.S_IMODE(found.st_mode):o}): "
            f"chmod 700 it, or set CALLBOARD_RUN_DIR"
        )


@contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Only one process at a time claims or releases below `base`. Leaves no lock file."""
    handle = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _too_long(path: Path) -> str:
    return (
        f"the run directory {path} is too long for socket files ({SOCKET_PATH_LIMIT} bytes "
        "with the socket's name): set CALLBOARD_RUN_DIR to a shorter one"
    )

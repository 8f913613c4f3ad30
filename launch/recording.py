"""What the actors of a topology record, and where: decided once, when it starts.

Journals outlive their topology: what a crash leaves behind is what they are for. Of each topology
the last runs are kept, unless a directory was named: there nothing is removed.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from bus.identity import Identity
from bus.journal.recorder import Plan, Recorder
from bus.log import structlog
from launch.rundir import RunDir
from launch.topology import Record

RUNS = 3
"""Runs of a topology whose journals are kept, with the one that begins."""
MB = 1 << 20


class Recording(msgspec.Struct, frozen=True):
    """Of one run. `limit` in bytes, for each actor; 0: nothing is recorded unless asked for."""

    directory: str
    limit: int
    flight: bool
    text: bool

    def of(self, actor: str) -> Path:
        """Where an actor's segments go."""
        return Path(self.directory) / actor.replace("/", "-")


def journal_directory(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/callboard/journals`, else `~/.local/state/callboard/journals`."""
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "callboard/journals"


def prepare(record: Record, run_dir: RunDir) -> None:
    """Decide, and leave it in the run directory for every process of the topology."""
    base = Path(record.dir) if record.dir else journal_directory(os.environ) / run_dir.name
    if not record.dir:
        _forget(base)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    recording = Recording(
        str(base.absolute() / f"{now}-{os.getpid()}"),
        (record.limit_mb if record.everything else record.flight_mb) * MB,
        not record.everything,
        record.with_text,
    )
    run_dir.record_file.write_bytes(msgspec.json.encode(recording))


def recording_of(run_dir: RunDir) -> Recording | None:
    """None where the topology is of an earlier version, or is not there any more."""
    try:
        return msgspec.json.decode(run_dir.record_file.read_bytes(), type=Recording)
    except (OSError, msgspec.MsgspecError):
        return None


def recorder_of(run_dir: RunDir, identity: Identity) -> Recorder:
    """The recorder of this process, which records already what is always recorded."""
    log = structlog.get_logger().bind(actor=identity.actor, incarnation=identity.incarnation)
    recording = recording_of(run_dir)
    always = None
    if recording is not None and recording.limit:
        always = Plan(
            recording.of(identity.actor), recording.limit, recording.flight, recording.text
        )
    recorder = Recorder(
        identity,
        log.warning,
        now=time.monotonic,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=_version(),
        always=always,
    )
    try:
        recorder.go_back()
    except OSError as error:
        log.warning("nothing is recorded", reason=f"{error.filename}: {error.strerror}")
    return recorder


def _forget(base: Path) -> None:
    """Remove the oldest runs. Whatever cannot be removed stays: it is in nobody's way."""
    try:
        runs = sorted(path for path in base.iterdir() if path.is_dir())
    except OSError:
        return
    for path in runs[: max(0, len(runs) - RUNS + 1)]:
        shutil.rmtree(path, ignore_errors=True)


def _version() -> str:
    try:
        return version("callboard")
    except PackageNotFoundError:
        return "from a source tree"

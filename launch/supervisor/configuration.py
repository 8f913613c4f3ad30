"""What the supervisor writes of the configuration: its own versions, and those of ConfigActor."""

from __future__ import annotations

import time

import msgspec

from launch.rundir import RunDir
from schemas.config import REMEMBERED, ConfigChanged, SetConfig
from schemas.refusal import Refusal
from schemas.supervise import Accepted, KeepConfig, Resize


def keep(run_dir: RunDir, new: KeepConfig) -> Accepted | Refusal:
    """Write what ConfigActor changed. The file decides who was first."""
    written = run_dir.read_config().get("version", 0)
    if new.version != written + 1:
        text = f"version {new.version} does not follow {written}, which is written"
        return Refusal("invalid", text, "version")
    run_dir.write_config(new.document, new.actors, new.history)
    return Accepted(f"version {new.version} is written")


def resized(run_dir: RunDir, new: Resize) -> SetConfig:
    """Write a topology with other actors; ConfigActor shall have it too."""
    before = run_dir.read_config()
    came = [actor for actor in new.actors if actor not in before.get("actors", {})]
    went = [actor for actor in before.get("actors", {}) if actor not in new.actors]
    parts = ((came, "more: "), (went, "fewer: "))
    said = "; ".join(word + ", ".join(actors) for actors, word in parts if actors)
    version = before.get("version", 0) + 1
    change = ConfigChanged(version, [], "supervisor/0", time.time(), said or "no other actors")
    history = msgspec.convert(before.get("history", []), list[ConfigChanged])
    run_dir.write_config(new.document, new.actors, [change, *history][:REMEMBERED])
    return SetConfig(version, new.document, new.actors, change)

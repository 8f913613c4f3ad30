"""What every actor answers, whatever it is: who it is, draining, new options, recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus.actor import Incoming
from bus.adopting import adopt
from bus.journal.control import record_as_told
from schemas.config import Adopt
from schemas.journal import AskRecording, StartRecording, StopRecording
from schemas.life import Describe, Drain, Draining

if TYPE_CHECKING:
    from bus.runtime import Runtime

Common = Describe | Drain | Adopt | StartRecording | StopRecording | AskRecording


def answer(rt: Runtime, incoming: Incoming, message: Common) -> None:
    """Answer it. May raise what a hook of the actor raises."""
    if isinstance(message, Describe):
        incoming.answer(rt.describe())
    elif isinstance(message, Drain):
        incoming.answer(Draining(rt.pending()))
        rt.clock.call_later(0, lambda: rt.drain(message.timeout))
    elif isinstance(message, Adopt):
        if adopt(incoming, message, rt.actor, rt.set_log_level):
            rt.adopted(message.version)
    else:
        record_as_told(incoming, message, rt.recorder)

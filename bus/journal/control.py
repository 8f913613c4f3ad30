"""Recording on demand: what any actor answers to the conversation *journal*."""

from __future__ import annotations

from pathlib import Path

from bus.actor import Incoming
from bus.journal.recorder import Plan, Recorder
from schemas.journal import AskRecording, Recording, StartRecording, StopRecording

LEAST = 1 << 20
"""Bytes that a journal may be limited to at least."""


def record_as_told(
    incoming: Incoming,
    message: StartRecording | StopRecording | AskRecording,
    recorder: Recorder | None,
) -> None:
    if recorder is None:
        incoming.refuse("unsupported", "this actor cannot record: it runs within another program")
        return
    if isinstance(message, StartRecording) and message.limit < LEAST:
        text = f"limit {message.limit}: a journal needs {LEAST} bytes at least"
        incoming.refuse("invalid", text, "limit")
        return
    try:
        if isinstance(message, StartRecording):
            directory = Path(message.directory)
            recorder.start(Plan(directory, message.limit, message.flight, message.text))
        elif isinstance(message, StopRecording):
            recorder.go_back()
    except OSError as error:
        text = f"{error.filename}: {error.strerror}; name a directory that this user may write to"
        incoming.refuse("invalid", text, "directory")
        return
    incoming.answer(recording(recorder))


def recording(recorder: Recorder) -> Recording:
    plan = recorder.plan
    return Recording(
        recorder.on,
        plan is not None and plan.flight,
        plan is not None and plan.text,
        "" if plan is None else str(plan.directory),
        0 if plan is None else plan.limit,
        recorder.records,
        recorder.dropped,
        recorder.written,
        recorder.problem,
    )

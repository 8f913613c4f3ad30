"""Takes token ids and text out of messages; lengths stay, so that what is left has its shape.

What comes out is encoded and nothing else is done with it, so it may be an array that stands for a
struct: that is several times faster to make.

Keys of clients never travel on the bus. What could hold other secrets, the options of actors, is
never recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from bus.envelope import Frame
from schemas.generate import Delta, Generate, Sampling, Step
from schemas.kv import AskKvMatch, KvSnapshotPart

try:
    from bus.journal import _redact
except ImportError:
    native_keyed: Native | None = None  # installed without a compiler, or never built
    native_step: Native | None = None
else:
    native_keyed, native_step = _redact.keyed, _redact.step

T = TypeVar("T")
Native = Callable[[Frame], bytes | None]
"""Given something encoded it makes what is shown of it; None where that is for Python."""
UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)
"""What msgspec raises for what msgpack cannot hold."""

_ZEROS = [[0] * n for n in range(17)]
_ONE = _ZEROS[1]
_NEUTRAL = Sampling()
_SAMPLING_TEXT = ("bad_words", "stop")
_SAMPLING_TOKENS = ("allowed_token_ids", "stop_token_ids")
replace = msgspec.structs.replace
_encode = msgspec.msgpack.Encoder().encode


def _once(redactor: Callable[[T], Any]) -> Callable[[T], Any]:
    """The same for the same object again: a message is an event, an effect and a message."""
    last: T | None = None
    shown: Any = None

    def redact(given: T) -> Any:
        nonlocal last, shown
        if given is not last:
            last, shown = given, redactor(given)
        return shown

    return redact


def tokens(ids: list[int]) -> list[int]:
    """As many zeros."""
    count = len(ids)
    return _ZEROS[count] if count < len(_ZEROS) else [0] * count


def text(given: str | None) -> str | None:
    """As many letters."""
    return None if given is None else "x" * len(given)


def sampling(given: Sampling) -> Sampling:
    changes: dict[str, Any] = {}
    for name in _SAMPLING_TEXT:
        if words := getattr(given, name):
            changes[name] = [text(word) for word in words]
    for name in _SAMPLING_TOKENS:
        if ids := getattr(given, name):
            changes[name] = tokens(ids)
    for name in ("logit_bias", "structured", "extra_args"):
        if getattr(given, name) is not None:
            changes[name] = getattr(_NEUTRAL, name)
    return replace(given, **changes) if changes else given


@_once
def generate(given: Generate) -> Any:
    """A `Generate`, encoded: it stands in a message, an event and an effect."""
    shown = replace(
        given,
        sampling=sampling(given.sampling),
        token_ids=tokens(given.token_ids),
        text=text(given.text),
        salt=text(given.salt),
        resumed=tokens(given.resumed),
    )
    return msgspec.Raw(_encode(shown))


def keyed(given: Sequence[tuple[int, Delta]]) -> Any:
    """Pairs of a key and a delta, which is shown as in a `step`."""
    shown = _natively(native_keyed, given)
    return [(key, _delta(one)) for key, one in given] if shown is None else msgspec.Raw(shown)


def _delta(given: Delta) -> Any:
    """Of one that is a token and nothing else there is as much as there is to say."""
    if (
        given.finish_reason is None
        and given.prompt_tokens is None
        and given.text is None
        and len(given.token_ids) == 1
    ):
        return given.stream, _ONE
    stop = given.stop_reason
    return Delta(
        given.stream,
        tokens(given.token_ids),
        given.finish_reason,
        text(stop) if isinstance(stop, str) else None if stop is None else 0,
        None,
        None,
        given.prompt_tokens,
        given.cached_tokens,
        text(given.text),
        given.error,
        given.transfer,
    )


def step(given: Step) -> Any:
    """A `Step`, as it is in an effect."""
    shown = _natively(native_step, given)
    return _step(given) if shown is None else msgspec.Raw(shown)


def sent_step(given: Step, body: Frame) -> Any:
    """A `Step` of which `body` came or goes."""
    shown = None if native_step is None else native_step(body)
    return _step(given) if shown is None else msgspec.Raw(shown)


def _step(given: Step) -> Any:
    return "Step", [_delta(one) for one in given.deltas]


def _natively(native: Native | None, given: object) -> bytes | None:
    if native is None:
        return None
    try:
        data = _encode(given)
    except UNWRITABLE:  # what is shown may be writable; if not, the recorder leaves it out
        return None
    return native(data)


def _match(given: AskKvMatch, _body: Frame) -> AskKvMatch:
    return replace(given, token_ids=tokens(given.token_ids), salt=text(given.salt))


def _part(given: KvSnapshotPart, _body: Frame) -> KvSnapshotPart:
    return replace(given, batches=[bytes(len(batch)) for batch in given.batches])


Redactor = Callable[[Any, Frame], Any]
"""Given a message and its body it makes what is recorded of it."""
REDACTORS: dict[str, Redactor] = {
    "Generate": lambda given, _: generate(given),
    "Step": sent_step,
    "AskKvMatch": _match,
    "KvSnapshotPart": _part,
}
"""By tag: where text is not to be kept."""
ALWAYS: dict[str, Redactor] = {
    "Config": lambda given, _: replace(given, document={}, options={}),
    "SetConfig": lambda given, _: replace(given, document={}, actors={}),
    "KeepConfig": lambda given, _: replace(given, document={}, actors={}),
    "Resize": lambda given, _: replace(given, document={}, actors={}),
}
"""By tag: in any case."""

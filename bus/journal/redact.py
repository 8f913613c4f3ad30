"""Takes token ids and text out of messages; lengths stay, so that what is left has its shape.

What comes out is encoded and nothing else is done with it, so it may be an array that stands for a
struct: that is several times faster to make.

Keys of clients never travel on the bus. What could hold other secrets, the options of actors, is
never recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from schemas.generate import Delta, Generate, Sampling, Step
from schemas.kv import AskKvMatch, KvSnapshotPart

T = TypeVar("T")

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


def keyed(given: Iterable[tuple[int, Delta]]) -> list[Any]:
    """Pairs of a key and a delta, which is shown as in a `step`."""
    # Every token comes through here and through `step`: no call is made for it.
    return [
        (
            key,
            (one.stream, _ONE)
            if one.finish_reason is None
            and one.prompt_tokens is None
            and one.text is None
            and len(one.token_ids) == 1
            else _delta(one),
        )
        for key, one in given
    ]


def _delta(given: Delta) -> Delta:
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


@_once
def step(given: Step) -> Any:
    """A `Step`, encoded: it stands in an effect and in the message that comes of it.

    Of a delta that is one token and nothing else there is as much as there is to say.
    """
    shown = [
        (one.stream, _ONE)
        if one.finish_reason is None
        and one.prompt_tokens is None
        and one.text is None
        and len(one.token_ids) == 1
        else _delta(one)
        for one in given.deltas
    ]
    return msgspec.Raw(_encode(("Step", shown)))


def _match(given: AskKvMatch) -> AskKvMatch:
    return replace(given, token_ids=tokens(given.token_ids), salt=text(given.salt))


def _part(given: KvSnapshotPart) -> KvSnapshotPart:
    return replace(given, batches=[bytes(len(batch)) for batch in given.batches])


REDACTORS: dict[str, Callable[[Any], Any]] = {
    "Generate": generate,
    "Step": step,
    "AskKvMatch": _match,
    "KvSnapshotPart": _part,
}
"""By tag: what is recorded of it unless text is to be kept."""
ALWAYS: dict[str, Callable[[Any], Any]] = {
    "Config": lambda given: replace(given, document={}, options={}),
    "SetConfig": lambda given: replace(given, document={}, actors={}),
    "KeepConfig": lambda given: replace(given, document={}, actors={}),
    "Resize": lambda given: replace(given, document={}, actors={}),
}
"""By tag: what is recorded of it in any case."""

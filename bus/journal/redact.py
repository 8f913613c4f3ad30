"""Takes token ids and text out of messages; lengths stay, so that what is left has its shape.

What comes out is encoded and nothing else is done with it, so it may be an array that stands for a
struct: that is several times faster to make.

Keys of clients never travel on the bus. What could hold other secrets, the options of actors, is
never recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from bus.envelope import Frame
from schemas.generate import Delta, Generate, Sampling, Step
from schemas.kv import AskKvMatch, KvSnapshotPart
from schemas.message import Message

try:
    from bus.journal import _redact
except ImportError:
    native: Any = None  # installed without a compiler, or never built
else:
    native = _redact

T_contra = TypeVar("T_contra", bound=Message, contravariant=True)
UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)
"""What msgspec raises for what msgpack cannot hold."""

_ZEROS = [[0] * n for n in range(17)]
_ONE = _ZEROS[1]
_NEUTRAL = Sampling()
_SAMPLING_TEXT = ("bad_words", "stop")
_SAMPLING_TOKENS = ("allowed_token_ids", "stop_token_ids")
_SAMPLING_NONE = ("logit_bias", "structured", "extra_args")
_GENERATE_TEXT = ("text", "salt")
_GENERATE_TOKENS = ("token_ids", "resumed")
replace = msgspec.structs.replace
_encode = msgspec.msgpack.Encoder().encode


def _roles(struct: type[msgspec.Struct], **names: tuple[str, ...]) -> bytes:
    """A letter for each field, as the extension's `message` wants them; a tag has one, too."""
    letter = {name: role for role, several in names.items() for name in several}
    tag = "-" if struct.__struct_config__.tag is not None else ""
    return (tag + "".join(letter.get(name, "-") for name in struct.__struct_fields__)).encode()


_SAMPLING = _roles(Sampling, l=_SAMPLING_TEXT, t=_SAMPLING_TOKENS, n=_SAMPLING_NONE)
_GENERATE = _roles(Generate, s=("sampling",), t=_GENERATE_TOKENS, x=_GENERATE_TEXT)


class Once(Protocol[T_contra]):
    """Given a message, and its body where there is one, it makes what is recorded of it."""

    def __call__(self, given: T_contra, body: Frame | None = None, /) -> Any: ...


def _once(redactor: Callable[[T_contra, Frame | None], Any]) -> Once[T_contra]:
    """The same for the same object again: a request is a message, an event and an effect."""
    last: T_contra | None = None
    shown: Any = None

    def redact(given: T_contra, body: Frame | None = None, /) -> Any:
        nonlocal last, shown
        if given is not last:
            last, shown = given, redactor(given, body)
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
    for name in _SAMPLING_NONE:
        if getattr(given, name) is not None:
            changes[name] = getattr(_NEUTRAL, name)
    return replace(given, **changes) if changes else given


@_once
def generate(given: Generate, body: Frame | None) -> Any:
    """A `Generate`, of which `body` came or goes; or an event or an effect has it."""
    if native is not None and body is not None:
        shown = native.message(body, _GENERATE, _SAMPLING)
        if shown is not None:  # one that has the fields of this version
            return msgspec.Raw(shown)
    changes: dict[str, Any] = {name: tokens(getattr(given, name)) for name in _GENERATE_TOKENS}
    changes |= {name: text(getattr(given, name)) for name in _GENERATE_TEXT}
    return msgspec.Raw(_encode(replace(given, sampling=sampling(given.sampling), **changes)))


def head(given: Generate) -> Any:
    """Whose and for which model it is. What is missing has its default."""
    return "Generate", given.request_id, given.model, ()


def keyed(given: Sequence[tuple[int, Delta]]) -> Any:
    """Pairs of a key and a delta, which is shown as in a `step`."""
    data = None if native is None else _encoded(given)
    shown = None if data is None else native.keyed(data)
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


def step(given: Step, body: Frame | None = None) -> Any:
    """A `Step`, of which `body` came or goes; or an effect has it."""
    if native is not None:
        data = _encoded(given) if body is None else body
        shown = None if data is None else native.step(data)
        if shown is not None:
            return msgspec.Raw(shown)
    return "Step", [_delta(one) for one in given.deltas]


def _encoded(given: object) -> bytes | None:
    try:
        return _encode(given)
    except UNWRITABLE:  # what is shown may be writable; if not, the recorder leaves it out
        return None


def _match(given: AskKvMatch, _body: Frame) -> AskKvMatch:
    return replace(given, token_ids=tokens(given.token_ids), salt=text(given.salt))


def _part(given: KvSnapshotPart, _body: Frame) -> KvSnapshotPart:
    return replace(given, batches=[bytes(len(batch)) for batch in given.batches])


Redactor = Callable[[Any, Frame], Any]
"""Given a message and its body it makes what is recorded of it."""
REDACTORS: dict[str, Redactor] = {
    "Generate": generate,
    "Step": step,
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
IN_FLIGHT: dict[str, Redactor] = {"Generate": lambda given, _: head(given)}
"""By tag, of messages that come: more of them has the sender's flight recorder."""

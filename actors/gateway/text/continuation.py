"""`continue_final_message`: a prompt that ends in the middle of the last message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.gateway.text.errors import TextError

_MARK = "\ue000callboard-continues-here\ue000"
"""Stands at the end of the last message while the template runs: private-use code points."""


def render_open_ended(
    messages: list[dict[str, Any]], render: Callable[[list[dict[str, Any]]], str]
) -> str:
    """What `render` makes of `messages`, cut off right after the last message's text.

    Spaces at its end are kept if the template keeps them. Raises TextError (param "messages") if
    the last message has no text, or the template does not show it.
    """
    *before, last = messages
    # The space tells whether the template trims content: then it is gone, or not behind the mark.
    rendered = render([*before, {**last, "content": _marked(last["content"], _MARK + " ")}])
    text, mark, rest = rendered.rpartition(_MARK)
    if not mark:
        raise TextError(
            "continue_final_message is set, but the chat template leaves the last message's "
            "content out.",
            param="messages",
        )
    return text if rest.startswith(" ") else text.rstrip()


def _marked(content: str | list[dict[str, Any]], mark: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content + mark
    if not content:
        raise TextError(
            "continue_final_message is set, but the last message has no text to continue.",
            param="messages",
        )
    *before, last = content
    return [*before, {**last, "text": last["text"] + mark}]

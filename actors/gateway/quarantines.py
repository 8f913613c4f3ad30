"""What is refused for a while because it killed an engine; all gateways know the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from actors.gateway.events import Quarantined, Released
from actors.gateway.suspects import REMEMBERED
from bus.clock import Timer
from bus.runtime import Runtime
from schemas.message import Message
from schemas.suspects import AskQuarantined, ContentQuarantined, QuarantinedContents

QUARANTINE = 600.0
"""Seconds for which what killed an engine is refused."""
ASKED = 3
"""Gateways that a new one asks. Each knows all; one may be about to end."""
PATIENCE = 1.0
"""Seconds that it waits for them before it serves without."""


class Quarantines:
    """The shell of `suspects.Suspects.quarantined`: news, and the end of each.

    `handle` tells the core.
    """

    def __init__(self, rt: Runtime, handle: Callable[[Quarantined | Released], None]) -> None:
        self._rt = rt
        self._handle = handle
        self._until: dict[str, tuple[float, Timer]] = {}

    def found(self, content: str) -> None:
        """Our core found that it killed an engine: the others shall know."""
        self._rt.publish("suspects", ContentQuarantined(content, QUARANTINE))
        self._refuse(content, QUARANTINE)

    def told(self, content: str, seconds: float) -> None:
        """Another gateway found it."""
        self._handle(Quarantined(content))
        self._refuse(content, min(seconds, QUARANTINE))

    def contents(self) -> QuarantinedContents:
        now = self._rt.clock.now()
        return QuarantinedContents(
            {content: max(until - now, 0.0) for content, (until, _) in self._until.items()}
        )

    def learn(self, gateways: Sequence[str], done: Callable[[], None]) -> None:
        """Ask those that were here before; `done` follows, at once where there are none."""
        open_ = gateways[:ASKED]
        if not open_:
            done()
            return
        left = len(open_)

        def heard(answer: Message) -> None:
            nonlocal left
            if isinstance(answer, QuarantinedContents):
                for content, seconds in answer.contents.items():
                    self.told(content, seconds)
            left -= 1
            if not left:
                done()

        for gateway in open_:
            self._rt.ask(gateway, AskQuarantined(), heard, timeout=PATIENCE)

    def _refuse(self, content: str, seconds: float) -> None:
        """From now on; what was said before of this content is over."""
        if content in self._until:
            self._until.pop(content)[1].cancel()
        elif len(self._until) >= REMEMBERED:  # as the core does, which forgets its oldest
            self._until.pop(next(iter(self._until)))[1].cancel()
        timer = self._rt.clock.call_later(seconds, partial(self._over, content))
        self._until[content] = self._rt.clock.now() + seconds, timer

    def _over(self, content: str) -> None:
        del self._until[content]
        self._handle(Released(content))

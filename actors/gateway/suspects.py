"""Which requests may be what kills engines. Pure.

A death that somebody explains (an outside kill, a restart) accuses nobody. What was there at two
unexplained deaths is suspected, and runs alone from then on; what kills an engine alone is
quarantined. Requests are known by the hash of their content, so that sending one anew helps nobody.
"""

from __future__ import annotations

import msgspec

DEATHS = 2
"""Unexplained deaths at which a request was present before it is suspected."""
REMEMBERED = 4096
"""Contents that were present at a death; the oldest is forgotten."""
LIVES = 64
"""Lives of engines whose ends are remembered."""


class End(msgspec.Struct):
    """Of one life of an engine: who was there. `alone` says which of them were alone.

    `unexplained` is None until the supervisor has said why.
    """

    present: dict[str, bool] = {}
    unexplained: bool | None = None


class Suspects(msgspec.Struct):
    """`deaths`: unexplained ones by content. `quarantined` contents are refused."""

    ends: dict[str, End] = {}
    deaths: dict[str, int] = {}
    quarantined: dict[str, None] = {}

    def present(self, engine: str, incarnation: int, content: str, *, alone: bool) -> None:
        """This content ran in a life that ended."""
        end = self._end(engine, incarnation)
        if content in end.present:
            return
        if len(end.present) < REMEMBERED:
            end.present[content] = alone
        if end.unexplained:
            self._accuse(content)

    def explained(self, engine: str, incarnation: int, *, unexplained: bool) -> str:
        """The supervisor has seen that life end. Said twice, the first counts.

        Returns the content that is quarantined for it, or "".
        """
        end = self._end(engine, incarnation)
        if end.unexplained is not None:
            return ""
        end.unexplained = unexplained
        if not unexplained:
            return ""
        if list(end.present.values()) == [True]:
            (content,) = end.present
            self.quarantine(content)
            return content
        for content in end.present:
            self._accuse(content)
        return ""

    @property
    def any(self) -> bool:
        """Whether the contents of requests matter now."""
        return bool(self.deaths or self.quarantined)

    def on_trial(self, engine: str, incarnation: int, content: str) -> bool:
        """The end of that life may be the one that says who kills engines; nobody has said yet."""
        end = self.ends.get(f"{engine} {incarnation}")
        open_ = end is not None and content in end.present and end.unexplained is None
        return open_ and self.deaths.get(content, 0) >= DEATHS - 1

    def suspected(self, content: str) -> bool:
        return self.deaths.get(content, 0) >= DEATHS

    def quarantine(self, content: str) -> None:
        self.deaths.pop(content, None)
        self.quarantined[content] = None
        if len(self.quarantined) > REMEMBERED:
            del self.quarantined[next(iter(self.quarantined))]

    def release(self, content: str) -> None:
        """It ran alone to its end, or its time in quarantine is over."""
        self.deaths.pop(content, None)
        self.quarantined.pop(content, None)

    def _accuse(self, content: str) -> None:
        # To the end: the one whose last death is longest ago is forgotten first.
        self.deaths[content] = self.deaths.pop(content, 0) + 1
        if len(self.deaths) > REMEMBERED:
            del self.deaths[next(iter(self.deaths))]

    def _end(self, engine: str, incarnation: int) -> End:
        life = f"{engine} {incarnation}"
        end = self.ends.get(life)
        if end is None:
            end = self.ends[life] = End()
            if len(self.ends) > LIVES:
                del self.ends[next(iter(self.ends))]
        return end

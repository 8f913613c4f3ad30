"""The public stream of a rank, and what its core wants besides, in order. Pure."""

from __future__ import annotations

from actors.kv_events.effects import Effect, Publish
from actors.kv_events.run import MOST, Run
from schemas.kv import KvChange, KvChanged


class Public:
    """`sequence` is the number of the last batch. While it `joins`, those in a row are one effect.

    `unsaid` counts batches of sources that went into no public one yet.
    """

    def __init__(self, engine: str, rank: int, sequence: int) -> None:
        self.engine = engine
        self.rank = rank
        self.sequence = sequence
        self.unsaid = 0
        self.joins = False
        self._run: Run | None = None  # what is to be the next effect
        self._effects: list[Effect] = []

    @property
    def room(self) -> int:
        """Batches that one more effect may take."""
        return MOST - (0 if self._run is None else len(self._run.payloads)) or MOST

    def publish(
        self, life: int, payloads: list[bytes], changes: list[KvChange], *, cleared: bool
    ) -> None:
        run = self._run
        if run and (cleared or run.life != life or len(run.payloads) + len(payloads) > MOST):
            self.end_run()
        if self._run is None:
            self._run = Run(self.sequence + 1, life, cleared=cleared)
        self._run.add(payloads, changes, self.unsaid)
        self.unsaid = 0
        self.sequence += len(payloads)
        if not self.joins:
            self.end_run()

    def want(self, effect: Effect) -> None:
        """After what is published already."""
        self.end_run()
        self._effects.append(effect)

    def end_run(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        payload, *more = run.payloads
        message = KvChanged(
            self.engine,
            run.life,
            self.rank,
            self.sequence,
            run.cleared,
            run.changes,
            run.batches,
            run.first if more else 0,
        )
        self._effects.append(Publish(payload, message, more))

    def take(self) -> list[Effect]:
        """All that is wanted since the last call."""
        effects, self._effects = self._effects, []
        return effects

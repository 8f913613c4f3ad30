"""What MonitorActor decides: who is healthy, busy, suspect, hung or dead. Pure.

Time counts only as far as it can accuse: of the time between two looks at most `ATTENTION`, so that
a monitor that was itself frozen suspects nobody; and for a process that wants a CPU, the part of it
that it got, so that a crowded machine makes nobody hang.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from actors.monitor.events import (
    Beat,
    Changed,
    Effect,
    EntrySeen,
    Event,
    Exited,
    GpuSeen,
    Left,
    Looked,
    Probe,
    Probed,
    ProcessSample,
    RankSample,
    Retuned,
    Worked,
)
from actors.monitor.judge import findings
from actors.monitor.life import Life, Process, Rank
from actors.monitor.options import Limits
from actors.monitor.pace import work_of
from schemas.health import Condition, Evidence, Source, Verdict
from schemas.progress import EXEMPT, PAUSED

ATTENTION = 0.5
"""Seconds between two looks that count at most."""
SLOWEST = 0.05
"""Rate at which time counts at least: a process that never gets a CPU is of no use either."""
FORGET = 600.0
"""Seconds for which a dead life that nobody replaced is still reported."""
FAREWELL = 1.0
"""Seconds that the farewell of an actor may come later than its exit with 0: both go own ways."""
EVIDENCE = 8
"""Pieces of evidence in a verdict, at most."""


class State(msgspec.Struct):
    limits: Limits = Limits()
    canary_idle: float = 0.0
    now: float = 0.0
    looked: float | None = None
    lives: dict[str, Life] = {}
    over: dict[str, int] = {}
    """By actor, the last life that is dead, forgotten or not: news of it may come late."""


class MonitorCore:
    """One life of each actor is judged: the newest. `dead` is final for it."""

    def __init__(self, limits: Limits | None = None, *, canary_idle: float = 0.0) -> None:
        self.state = State(limits or Limits(), canary_idle)

    def handle(self, event: Event) -> list[Effect]:
        self.state.now = event.now
        if isinstance(event, Looked):
            return self._looked(event)
        if isinstance(event, GpuSeen):
            for life in self.state.lives.values():
                life.gpu = {pid: n for pid, n in event.held.items() if pid in life.processes}
            return []
        if isinstance(event, EntrySeen):
            return self._entry(event)
        if isinstance(event, Retuned):
            self.state.limits, self.state.canary_idle = event.limits, event.canary_idle
            return []
        found = self._find(event.actor, event.incarnation)
        return [] if found is None else self._of(found, event)

    def _of(self, life: Life, event: Beat | Left | Exited | Worked | Probed) -> list[Effect]:
        if isinstance(event, Exited):
            return self._exited(life, event)
        if isinstance(event, Left):
            return self._left(life, event)
        if life.condition == "dead":
            return self._last_word(life, event) if isinstance(event, Beat) else []
        if isinstance(event, Beat):
            return self._beat(life, event)
        if isinstance(event, Worked):
            life.quiet = 0.0
            return []
        return self._probed(life, event)

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.state)

    def restore(self, data: bytes) -> None:
        self.state = msgspec.msgpack.decode(data, type=State)

    def verdicts(self, now: float) -> list[Verdict]:
        """All, by actor; `age` as of `now`."""
        return [self._verdict(life, now) for _, life in sorted(self.state.lives.items())]

    def processes(self) -> dict[str, list[str]]:
        """By actor the names of its processes here, its own first."""
        return {
            life.actor: [str(p) for p in sorted(life.processes.values(), key=_place(life))]
            for life in self.state.lives.values()
        }

    # --- who is there ---

    def _find(self, actor: str, incarnation: int) -> Life | None:
        life = self.state.lives.get(actor)
        return life if life is not None and life.incarnation == incarnation else None

    def _entry(self, event: EntrySeen) -> list[Effect]:
        if event.incarnation <= self.state.over.get(event.actor, -1):
            return []
        known = self.state.lives.get(event.actor)
        effects: list[Effect] = []
        if known is not None and known.incarnation < event.incarnation:
            if known.condition != "dead":
                if known.ended:
                    effects = self._unasked(known)
                else:
                    effects = self._die(known, "a new life of it began", known=True)
            known = None
        if known is None:
            known = Life(event.actor, event.incarnation, event.pid, event.state, event.now)
            self.state.lives[event.actor] = known
            effects.append(Changed(self._verdict(known, event.now), "healthy"))
        if known.incarnation == event.incarnation and known.condition != "dead":
            # A lease that ran out is taken up again when the actor can speak.
            known.left, known.canaries = None, event.canary
            if known.state == "starting":  # later states are told by heartbeats, in order
                known.state = event.state
        return effects

    def _beat(self, life: Life, event: Beat) -> list[Effect]:
        life.silence = 0.0
        life.state, life.detail = event.state, event.detail or life.detail
        if event.state == "failed":
            return self._die(life, event.detail or "it gave up", known=True, source="engine")
        if event.state == "stopped" and life.ended:
            return self._in_order(life)
        return []

    def _last_word(self, life: Life, event: Beat) -> list[Effect]:
        """One death in an engine brings others, and the engine knows which was the first."""
        if not life.part_died or event.state != "failed" or not event.detail:
            return []
        life.part_died = False
        if life.reason in event.detail:
            return []
        life.reason = event.detail
        life.evidence = [Evidence("engine", "dead", event.detail), *life.evidence][:EVIDENCE]
        return [Changed(self._verdict(life, self.state.now), "dead")]

    def _left(self, life: Life, event: Left) -> list[Effect]:
        if event.in_order:
            life.state = "stopped"
            if life.ended:
                return self._in_order(life)
        if life.condition == "dead" and life.state == "stopped":
            self.state.lives.pop(life.actor, None)  # its exit was seen before its farewell
            return []
        if life.condition == "dead":
            if life.reason_known:
                return []
            life.reason, life.reason_known = event.reason, True
            life.evidence = [Evidence("directory", "dead", event.reason), *life.evidence][:EVIDENCE]
            return [Changed(self._verdict(life, self.state.now), "dead")]
        life.left = event.reason
        if event.final and not life.processes and not life.ended:
            return self._die(life, event.reason, known=True, source="directory")
        return []  # whoever has a process here is dead when the kernel says so

    def _exited(self, life: Life, event: Exited) -> list[Effect]:
        life.processes.pop(event.pid, None)
        if life.condition == "dead" or life.ended:
            return []
        own = event.pid == life.pid
        if not own and life.state in ("draining", "stopped"):
            return []  # it ends its engine in order; of another end it says so itself
        life.part_died = not own
        text = f"{event.name} ({event.pid}) {event.cause or 'ended'}"
        if own and life.state == "stopped":
            return self._in_order(life)
        if own and event.code == 0:
            life.ended = text
            return []
        if own and life.left is not None:
            return self._die(life, life.left, known=True, also=text)
        return self._die(life, text, known=bool(event.cause))

    def _in_order(self, life: Life) -> list[Effect]:
        return self._die(life, "stopped in order", known=True)

    def _unasked(self, life: Life) -> list[Effect]:
        """It exited with 0, and no farewell came."""
        if life.left is not None:
            return self._die(life, life.left, known=True, also=life.ended)
        return self._die(life, life.ended, known=True)

    def _die(
        self, life: Life, reason: str, *, known: bool, source: Source = "process", also: str = ""
    ) -> list[Effect]:
        """`known`: this is why, and not only that it died. `also` is further evidence."""
        was = life.condition
        last = [Evidence(source, "dead", text) for text in (reason, also) if text]
        life.evidence = [*last, *life.evidence][:EVIDENCE]
        life.condition, life.code, life.reason, life.reason_known = "dead", "dead", reason, known
        life.since = self.state.now
        life.ended = ""
        self.state.over[life.actor] = life.incarnation
        if life.state == "stopped":
            self.state.lives.pop(life.actor, None)  # nobody needs to do anything about it
        return [Changed(self._verdict(life, self.state.now), was)]

    def _probed(self, life: Life, event: Probed) -> list[Effect]:
        canary = life.canary
        canary.underway, canary.rest, canary.problem = False, 0.0, event.problem
        canary.failed = canary.failed + 1 if event.problem else 0
        if not event.problem:
            canary.without_step = 0.0
        return []

    # --- looking ---

    def _looked(self, event: Looked) -> list[Effect]:
        state = self.state
        real = event.now - state.looked if state.looked is not None else 0.0
        state.looked = event.now
        counted = min(max(real, 0.0), ATTENTION)
        for sample in event.processes:
            if life := self._find(sample.actor, sample.incarnation):
                _process(life, sample, real, counted)
        for rank in event.ranks:
            if life := self._find(rank.actor, rank.incarnation):
                _rank(life, rank, counted)
        effects: list[Effect] = []
        for life in list(state.lives.values()):
            if life.condition == "dead":
                if event.now - life.since > FORGET:
                    del state.lives[life.actor]
                continue
            if life.ended:
                life.unheard += counted
                effects += self._unasked(life) if life.unheard >= FAREWELL else []
                continue
            own = life.processes.get(life.pid)
            life.silence += counted * (own.rate if own else 1.0)
            effects += self._judge(life, event.now)
            effects += self._canary(life, counted)
        return effects

    def _judge(self, life: Life, now: float) -> list[Effect]:
        found = findings(life, self.state.limits)
        worst = found[0] if found else None
        condition: Condition = worst.condition if worst else "healthy"
        code = worst.code if worst else ""
        life.evidence = [Evidence(f.source, f.condition, f.detail) for f in found[:EVIDENCE]]
        life.reason = worst.detail if worst else ""
        if (condition, code) == (life.condition, life.code):
            return []
        was = life.condition
        life.condition, life.code = condition, code
        if condition != was:
            life.since = now
        return [Changed(self._verdict(life, now), was)]

    def _canary(self, life: Life, counted: float) -> list[Effect]:
        canary = life.canary
        life.quiet += counted
        if any(rank.running or rank.quiet == 0.0 for rank in life.ranks.values()):
            life.quiet = 0.0
            canary.failed, canary.without_step = 0, 0.0
        rate = min((process.rate for process in life.processes.values()), default=1.0)
        if canary.underway:
            canary.without_step += counted * rate
            return []
        canary.rest += counted
        if canary.failed:
            canary.without_step += counted * rate
        if not self.state.canary_idle or not life.canaries or life.state != "ready":
            return []
        if any(rank.ended.flags & PAUSED for rank in life.ranks.values()):
            canary.problem, canary.failed, canary.without_step = "", 0, 0.0
            return []
        if min(life.quiet, canary.rest) < self.state.canary_idle:
            return []
        canary.underway = True
        return [Probe(life.actor, life.incarnation)]

    def _verdict(self, life: Life, now: float) -> Verdict:
        evidence = life.evidence
        if held := sum(life.gpu.values()):
            text = f"its processes hold {held / 2**30:.1f} GiB of GPU memory"
            evidence = [*evidence, Evidence("gpu", "healthy", text)]
        return Verdict(
            life.actor,
            life.incarnation,
            life.condition,
            life.reason,
            max(now - life.since, 0.0),
            life.state,
            evidence,
        )


def _place(life: Life) -> Callable[[Process], tuple[bool, str]]:
    return lambda process: (process.pid != life.pid, process.name)


def _process(life: Life, sample: ProcessSample, real: float, counted: float) -> None:
    known = life.processes.get(sample.pid)
    if known is None:
        known = Process(sample.pid, sample.name, sample.role, sample.state, sample.cpu)
        life.processes[sample.pid] = known
        return
    used = sample.cpu - known.cpu
    stopped = sample.state in "Tt"
    known.rate = 1.0
    if sample.state == "R" and real > 0:
        known.rate = min(max(used / real, SLOWEST), 1.0)
    known.stopped = known.stopped + counted if stopped and known.state in "Tt" else 0.0
    known.cpu_still = 0.0 if used > 0 else known.cpu_still + counted * known.rate
    known.name, known.role = sample.name, sample.role
    known.state, known.cpu = sample.state, sample.cpu


def _rank(life: Life, sample: RankSample, counted: float) -> None:
    rank = life.ranks.get(sample.rank)
    if rank is None or rank.pid != sample.pid:
        rank = Rank(sample.pid, sample.beacon, began=sample.began, ended=sample.ended)
        life.ranks[sample.rank] = rank
        return
    process = life.processes.get(rank.pid)
    counted *= process.rate if process else 1.0
    rank.beacon_still = 0.0 if sample.beacon != rank.beacon else rank.beacon_still + counted
    rank.beacon = sample.beacon
    moved = (sample.began, sample.ended) != (rank.began, rank.ended)
    if moved:
        _learn(rank, sample)
    fresh = sample.began.number != rank.began.number
    rank.began, rank.ended = sample.began, sample.ended
    rank.quiet = 0.0 if moved else rank.quiet + counted
    rank.age = 0.0 if fresh or not rank.running else rank.age + counted
    stopped = process is not None and process.state in "Tt"
    rank.disturbed = stopped or (rank.disturbed and not fresh and rank.running)


def _learn(rank: Rank, sample: RankSample) -> None:
    """From a step that ended, and from one that we saw running and that must have ended since."""
    ended, before, disturbed = sample.ended, rank.began, rank.disturbed
    ours = ended.number == before.number
    if ended.number > rank.ended.number and not ended.flags & EXEMPT and not (ours and disturbed):
        rank.pace.learn(work_of(ended), (ended.ended_ns - ended.began_ns) / 1e9)
    if rank.running and ended.number > before.number and not (before.flags & EXEMPT or disturbed):
        rank.pace.at_least(work_of(before), rank.age)

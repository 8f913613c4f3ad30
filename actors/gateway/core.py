"""What GatewayActor decides: where each choice runs, what is tried again, how each one ends. Pure.

Tokens do not pass through here. A `Step` carries a delta for every running choice; decoding one,
finding its choice, making text of it and its `data:` line take 4 µs together, and an event with its
list of effects would add 1 µs to each. So the shell hands deltas straight to the choice that they
belong to. The core hears of the first and the last of a choice, which is all that its decisions
need. The shell keeps the tokens of each choice: whoever continues it gets them along.

**Migration.** When the engine of a choice dies or breaks off, the choice goes elsewhere, from the
tokens so far. `migration_limit` bounds how often that happens without a new token in between.
Where no engine is there it waits for one, for `migration_wait` seconds, and so does a new choice of
a model that was served before.

**Prefill and decode.** A choice may run in two steps (`steps`). What the prefill engine keeps is
its `source`: given to one decode engine that begins with it, or told to be `Unread`. What is lost
is computed again, `migration_limit` times; then the decode engine computes the prompt itself.
"""

from __future__ import annotations

import msgspec

from actors.gateway.events import (
    Cancel,
    ClientGone,
    Due,
    Effect,
    EngineDied,
    EngineEntry,
    Event,
    Fail,
    Finished,
    Lease,
    LeaseOver,
    Pause,
    Placed,
    Prefilled,
    Quarantine,
    Quarantined,
    Refused,
    Released,
    Retuned,
    RouterSilent,
    Started,
    StartPlacement,
    Step,
    Submit,
    Wait,
    WaitedLong,
)
from actors.gateway.fleet import ANY, Candidate, Fleet
from actors.gateway.rules import Rules
from actors.gateway.state import COUNTERS, Choice, News, Source, State
from actors.gateway.steps import Way, way
from schemas.refusal import RETRYABLE, Code, Refusal

ATTEMPTS = 4
"""Placements of a choice before its last refusal goes to the client."""
SILENT: frozenset[Code] = frozenset({"died", "unreachable", "stale"})
"""Refusals of an ask that say nothing about the request itself."""
OVER: frozenset[Code] = frozenset({"died", "stale"})
"""Refusals that say that a life is over."""
AWAY: frozenset[Code] = frozenset({"draining", "not_ready"})
"""Refusals of an engine, or of a router that has just started, that say that it will be there."""
FINAL: frozenset[Code] = frozenset({"invalid", "overloaded", "deadline"})
"""A router's last word. Its queue is there to protect the engines: nothing may go around it, and
`deadline` is a queue that took too long.
"""
ONLY, PINNED, LEAST_LOADED = "only", "pinned", "least-loaded"
"""How a place was chosen without a router."""
PAUSE = 0.05
"""Seconds before a second try where the first engine is the only one; doubles each time."""
LONGEST_PAUSE = 1.0
"""Seconds between tries of a choice that migrates."""


class GatewayCore:
    """Every choice that was submitted ends once: finished, failed, or forgotten with its client."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.state = State(Fleet(), {}, [], {}, dict.fromkeys(COUNTERS, 0), rules or Rules())

    def handle(self, event: Event) -> list[Effect]:
        state = self.state
        if isinstance(event, Started):
            return self._started(event)
        if isinstance(event, Finished):
            return self._finished(event)
        if isinstance(event, Submit):
            choice = state.choices[event.choice] = Choice(event, content=event.content)
            if event.content in state.suspects.quarantined:
                return self._fail(event.choice, choice, self.state.sentence())
            return self._place(event.choice, choice)
        if isinstance(event, Placed):
            return self._placed(event)
        if isinstance(event, Prefilled):
            return self._prefilled(event)
        if isinstance(event, Refused):
            return self._refused(event)
        if isinstance(event, RouterSilent):
            return self._silent(event.router)
        if isinstance(event, ClientGone):
            return [effect for key in event.choices for effect in self._drop(key, cancel=True)]
        return self._trouble(event)

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.state)

    def restore(self, data: bytes) -> None:
        self.state = msgspec.msgpack.decode(data, type=State)

    @property
    def router(self) -> str | None:
        return self.state.router

    def block_size(self, model: str) -> int:
        """Tokens per block in which prompts are named to a router; 0 where none will be asked."""
        fleet = self.state.fleet
        if self.router is None or len(fleet.candidates(model, roles=ANY)) < 2:
            return 0
        return fleet.block_size(model)

    def _trouble(
        self,
        event: Due | WaitedLong | LeaseOver | EngineDied | Quarantined | Released | Retuned | News,
    ) -> list[Effect]:
        if isinstance(event, Due):
            due = self.state.choices.get(event.choice)
            if due is None or due.phase != "pausing":
                return []
            return self._place(event.choice, due)
        if isinstance(event, WaitedLong):
            return self._waited(event)
        if isinstance(event, LeaseOver):
            late = self.state.choices.get(event.choice)
            if late is not None and late.source and late.source.number == event.prefill:
                late.source.over = True
            return []
        if isinstance(event, EngineDied):
            return self._died(event)
        if isinstance(event, Quarantined):
            self.state.suspects.quarantine(event.content)
            return self._judge()
        if isinstance(event, Released):
            self.state.suspects.release(event.content)
            return []
        if isinstance(event, Retuned):
            self.state.rules = event.rules
            return []
        self.state.learn(event)
        return self._wake() if isinstance(event, EngineEntry) else []

    def _place(self, key: int, choice: Choice) -> list[Effect]:
        """One way to go: straight there. Several: as the router says, or by load without one."""
        request, fleet = choice.request, self.state.fleet
        if choice.content and self.state.must_queue(key, choice):
            return self._hold(key, choice)
        if choice.source is not None and not self.state.keeps(choice.source):
            return self._rerun(key, choice)
        choice.step = "whole"
        there = way(choice, fleet, self.state.rules)
        choice.attempts += 1
        if not there.candidates:
            return self._no_engine(key, choice, there)
        if there.everywhere > 1:
            router = self.router
            self.state.forgive()
            if router is not None:
                return [self.state.ask(key, choice, router, there.role, there.local_tokens)]
        pinned = request.engine is not None or request.rank is not None
        chosen, candidates = PINNED if pinned else ONLY, there.candidates
        if len(candidates) > 1:
            chosen = LEAST_LOADED
            self.state.counters["placed_by_load"] += 1
        engine, rank = fleet.least_loaded(candidates, choice.avoid)
        step: Step = "whole" if choice.source is None else "decode"
        if there.prefill and fleet.role(engine) == "decode":
            chosen, step = LEAST_LOADED if len(there.prefill) > 1 else ONLY, "prefill"
            engine, rank = fleet.least_loaded(there.prefill, choice.avoid)
        incarnation = fleet.engines[engine].incarnation
        return [self.state.open(key, choice, engine, incarnation, rank, step, chosen)]

    def _candidates(self, choice: Choice) -> list[Candidate]:
        """Where it could be tried again as it was."""
        there = way(choice, self.state.fleet, self.state.rules)
        return there.prefill if choice.step == "prefill" else there.candidates

    def _no_engine(self, key: int, choice: Choice, there: Way) -> list[Effect]:
        request = choice.request
        if there.role == "aggregated" and not choice.moves:
            text = f"no prefill engine of {request.model!r} is ready, and its prompt is long"
            if choice.attempts >= ATTEMPTS:
                return self._fail(key, choice, Refusal("not_ready", text))
            return self._retry(key, choice, "not_ready", text)
        wrong = self.state.fleet.wrong_pin(request.model, request.engine, request.rank)
        if wrong is not None and choice.attempts == 1 and not choice.moves:
            return self._fail(key, choice, wrong)
        if choice.moves or self._is_expected(request):
            return self._hold(key, choice)
        where = request.engine or f"no engine of {request.model!r}"
        text = f"{where} is {'not ready' if request.engine else 'ready'}"
        return self._retry(key, choice, "not_ready", text)

    def _is_expected(self, request: Submit) -> bool:
        """Whether an engine for it will come: any that serves its model will do, and one did."""
        pinned = request.engine is not None or request.rank is not None
        return request.model in self.state.served and not pinned

    def _started(self, event: Started) -> list[Effect]:
        choice = self.state.choices.get(event.choice)
        if choice is None:
            return []
        choice.phase = "generating"
        if choice.step == "whole" and self.state.fleet.role(choice.engine) == "decode":
            self.state.counters["prefilled_locally"] += not choice.began
        choice.began, choice.armed = True, False
        started: list[Effect] = []
        if choice.routed:
            started = [StartPlacement(choice.routed, choice.placement)]
        read, choice.source = choice.source, None
        return started + self.state.end_source(choice, read)

    def _placed(self, event: Placed) -> list[Effect]:
        choice = self.state.choices.get(event.choice)
        if choice is None or choice.phase != "placing":
            return []
        step: Step = "prefill" if choice.splits and event.role == "prefill" else "whole"
        if choice.source is not None:
            step = "decode"
            if not self.state.keeps(choice.source):
                return [*self.state.end_placement(choice), *self._place(event.choice, choice)]
        if choice.began and not self.state.fleet.resumes(event.engine):
            return [*self.state.end_placement(choice), *self._hold(event.choice, choice)]
        life = event.engine, event.incarnation, event.rank
        return [self.state.open(event.choice, choice, *life, step)]

    # --- prefill and decode ---

    def _prefilled(self, event: Prefilled) -> list[Effect]:
        """From here on its blocks are kept for a decode engine, for as long as the lease is."""
        choice = self.state.choices.get(event.choice)
        if choice is None or choice.step != "prefill" or choice.phase != "opening":
            return []
        self.state.leave(choice)
        choice.attempts = 0
        if not event.kept:
            ended = self.state.end_placement(choice)
            text = f"{choice.engine} computes prompts for others but gave nothing to read"
            return ended + self._without_prefill(
                event.choice, choice, Refusal("internal", f"{text}: give it a connector")
            )
        self.state.counters["prefilled_remotely"] += 1
        choice.prefills += 1
        started: list[Effect] = []
        if choice.routed:
            started = [StartPlacement(choice.routed, choice.placement)]
        choice.source = Source(choice.engine, choice.incarnation, choice.prefills, choice.routed)
        choice.routed = ""
        if lease := self.state.fleet.kv_lease(choice.engine):
            started.append(Lease(event.choice, lease, choice.prefills))
        return started + self._place(event.choice, choice)

    def _rerun(self, key: int, choice: Choice) -> list[Effect]:
        """The blocks are lost, so the prompt is computed again."""
        counters, source = self.state.counters, choice.source
        assert source is not None
        counters["prefill_leases_over"] += source.over
        counters["prefill_reruns"] += 1
        choice.reruns += 1
        choice.attempts = 0
        if source.engine not in choice.avoid and not source.over:
            choice.avoid.append(source.engine)
        lost = self.state.give_up_source(key, choice)
        if choice.reruns > self.state.rules.migration_limit:
            text = f"KV blocks of {source.engine} were lost; that was loss {choice.reruns} in turn"
            return lost + self._without_prefill(key, choice, Refusal("kv_lost", text))
        return lost + self._place(key, choice)

    def _without_prefill(self, key: int, choice: Choice, refusal: Refusal) -> list[Effect]:
        """No prefill engine will do it."""
        if self.state.rules.prefill_fallback == "refuse":
            return self._fail(key, choice, refusal)
        choice.local, choice.attempts = True, 0
        return self._place(key, choice)

    def _refused(self, event: Refused) -> list[Effect]:
        choice = self.state.choices.get(event.choice)
        if choice is None:
            return []
        phase = choice.phase
        self.state.leave(choice)
        if phase == "placing":
            return self._not_placed(event, choice)
        if event.code == "kv_lost" and choice.source is not None:
            return self.state.end_placement(choice) + self._rerun(event.choice, choice)
        if choice.engine not in choice.avoid:
            choice.avoid.append(choice.engine)
        if event.code in OVER:
            self.state.lost(event, choice)
        if event.tokens > choice.tokens:
            choice.tokens, choice.moves = event.tokens, 0
        if event.code not in RETRYABLE:
            return self._fail(event.choice, choice, self._refusal(event, choice))
        # Whoever places it next, the router that did so first must not go on counting it.
        ended = self.state.end_placement(choice)
        if event.code in ("died", "unreachable"):  # it may have read what was kept for it
            ended += self.state.give_up_source(event.choice, choice)
        if phase == "generating" or event.code in SILENT:
            return ended + self._migrate(event, choice)
        elsewhere = self._elsewhere(choice)
        again = self._retry(event.choice, choice, event.code, event.message, at_once=elsewhere)
        return ended + again

    def _elsewhere(self, choice: Choice) -> bool:
        return any(engine not in choice.avoid for engine, _ in self._candidates(choice))

    def _refusal(self, event: Refused, choice: Choice) -> Refusal:
        """What the client hears. That its answer cannot be continued is no fault of its own."""
        if not choice.began or choice.phase == "generating":
            return Refusal(event.code, event.message, event.param)
        self.state.counters["migration_failed_refused"] += 1
        text = (
            f"the engine ended in the midst of the answer, and {choice.engine} cannot continue it"
        )
        return Refusal("died", f"{text}: {event.message}")

    def _migrate(self, event: Refused, choice: Choice) -> list[Effect]:
        """It goes on elsewhere, or where it was once that is there again."""
        key, counters = event.choice, self.state.counters
        able = choice.request.resumable and (choice.resumes or self._candidates(choice))
        choice.moves += 1
        if choice.began and not able:
            counters["migration_failed_unsupported"] += 1
            return self._fail(key, choice, Refusal(event.code, event.message))
        if choice.moves > self.state.rules.migration_limit:
            counters["migration_failed_limit"] += 1
            text = f"{event.message}; that was engine {choice.moves} in turn without a new token"
            return self._fail(key, choice, Refusal(event.code, text))
        counters["migrated_mid_stream" if choice.began else "migrated_before_first_token"] += 1
        counters["tokens_replayed"] += choice.tokens
        choice.attempts = 0
        if self.state.suspects.on_trial(choice.engine, choice.incarnation, choice.content):
            return self._hold(key, choice)  # it shall not end one engine more meanwhile
        armed = self._arm(key, choice)
        if event.code in OVER or self._elsewhere(choice):
            return armed + self._place(key, choice)
        return armed + self._pause(choice, key, choice.moves)

    def _pause(self, choice: Choice, key: int, tries: int) -> list[Effect]:
        choice.phase = "pausing"
        return [Pause(key, min(PAUSE * 2 ** (tries - 1), LONGEST_PAUSE))]

    def _arm(self, key: int, choice: Choice) -> list[Effect]:
        """It waits from now on."""
        if choice.armed:
            return []
        choice.armed = True
        choice.turn += 1
        return [Wait(key, self.state.rules.migration_wait, choice.turn)]

    def _hold(self, key: int, choice: Choice) -> list[Effect]:
        """Until an engine comes, or its turn."""
        choice.phase = "waiting"
        self.state.waiting[key] = None
        return self._arm(key, choice)

    def _wake(self) -> list[Effect]:
        """Something came for which choices wait."""
        state, effects = self.state, list[Effect]()
        waiting, state.waiting = state.waiting, {}
        for key in waiting:
            choice = state.choices.get(key)
            if choice is not None and choice.phase == "waiting":
                effects += self._place(key, choice)
        return effects

    def _waited(self, event: WaitedLong) -> list[Effect]:
        choice = self.state.choices.get(event.choice)
        if choice is None or not choice.armed or choice.turn != event.turn:
            return []
        choice.armed = False
        if choice.phase == "opening":
            return []  # an engine has it in its queue
        self.state.counters["migration_failed_deadline"] += 1
        cancel: list[Effect] = [Cancel(event.choice)] if choice.phase == "placing" else []
        text = f"no engine could take it for {self.state.rules.migration_wait:g} s"
        return cancel + self._fail(event.choice, choice, Refusal("not_ready", text))

    def _died(self, event: EngineDied) -> list[Effect]:
        suspects = self.state.suspects
        self.state.fleet.dead(event.engine, event.incarnation)
        guilty = suspects.explained(event.engine, event.incarnation, unexplained=event.unexplained)
        found: list[Effect] = [Quarantine(guilty)] if guilty else []
        judged = self._judge() if event.unexplained else []
        return found + judged + self._wake()

    def _judge(self) -> list[Effect]:
        """Running choices are treated as what is known by now."""
        suspects, effects = self.state.suspects, list[Effect]()
        for key, choice in list(self.state.choices.items()):
            if not choice.content or key not in self.state.choices:
                continue
            guilty = choice.content in suspects.quarantined
            if not guilty and (choice.alone or not suspects.suspected(choice.content)):
                continue
            self.state.leave(choice)
            if choice.phase not in ("pausing", "waiting"):
                effects.append(Cancel(key))
            effects += self.state.end_placement(choice) + self.state.give_up_source(key, choice)
            if guilty:
                effects += self._fail(key, choice, self.state.sentence())
            else:
                effects += self._place(key, choice)
        return effects

    def _not_placed(self, event: Refused, choice: Choice) -> list[Effect]:
        """A router said no, or is not there."""
        router = choice.routed
        if event.code in FINAL:
            # It may still place what it was too late for.
            choice.routed = router if event.code == "deadline" else ""
            code: Code = "overloaded" if event.code == "deadline" else event.code
            refusal = Refusal(code, event.message, event.param)
            return self._fail(event.choice, choice, refusal)
        choice.routed = ""
        if event.code not in SILENT:
            return self._retry(event.choice, choice, event.code, event.message)
        self.state.do_without(router)
        return self._place(event.choice, choice)

    def _silent(self, router: str) -> list[Effect]:
        """Whoever waits for it goes on without it."""
        state = self.state
        if router not in state.routers or router in state.silent:
            return []
        self.state.do_without(router)
        effects: list[Effect] = []
        for key, choice in list(state.choices.items()):
            if choice.phase == "placing" and choice.routed == router:
                effects += [
                    Cancel(key),
                    *self.state.end_placement(choice),
                    *self._place(key, choice),
                ]
        return effects

    def _retry(
        self, key: int, choice: Choice, code: Code, message: str, *, at_once: bool = False
    ) -> list[Effect]:
        """Again, after a pause unless another engine may take it.

        There is patience for what migrates, and where engines come and go faster than their news.
        """
        if choice.attempts >= ATTEMPTS and choice.step == "prefill":
            return self._without_prefill(key, choice, Refusal(code, message))
        tried = choice.attempts >= ATTEMPTS
        patient = choice.moves or (code in AWAY and self._is_expected(choice.request))
        if tried and not patient:
            return self._fail(key, choice, Refusal(code, message))
        self.state.counters["retries"] += 1
        armed = self._arm(key, choice) if choice.moves or tried else []
        if at_once:
            return armed + self._place(key, choice)
        return armed + self._pause(choice, key, choice.attempts)

    def _fail(self, key: int, choice: Choice, refusal: Refusal) -> list[Effect]:
        del self.state.choices[key]
        self.state.counters["failed"] += 1
        left = self.state.end_placement(choice) + self.state.give_up_source(key, choice)
        failed = Fail(key, refusal.code, refusal.message, refusal.param)
        return [*left, failed, *self._next_alone(key)]

    def _next_alone(self, key: int) -> list[Effect]:
        if self.state.alone != key:
            return []
        self.state.alone = 0
        return self._wake()

    def _finished(self, event: Finished) -> list[Effect]:
        self.state.counters["finished"] += 1
        choice = self.state.choices.get(event.choice)
        if choice is not None and choice.alone:
            self.state.suspects.release(choice.content)
        return self._drop(event.choice, cancel=event.cut)

    def _drop(self, key: int, *, cancel: bool) -> list[Effect]:
        choice = self.state.choices.pop(key, None)
        if choice is None:
            return []
        self.state.leave(choice)
        effects: list[Effect] = []
        if cancel and choice.phase not in ("pausing", "waiting"):
            effects.append(Cancel(key))
        effects += self.state.end_placement(choice) + self.state.give_up_source(key, choice)
        return effects + self._next_alone(key)

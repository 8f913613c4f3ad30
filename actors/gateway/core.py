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
"""

from __future__ import annotations

import msgspec

from actors.gateway.events import (
    AskPlacement,
    Cancel,
    ClientGone,
    Due,
    Effect,
    EndPlacement,
    EngineDied,
    EngineEntry,
    EngineGone,
    Event,
    Fail,
    Finished,
    LoadSeen,
    OpenStream,
    Pause,
    Placed,
    Quarantine,
    Quarantined,
    Refused,
    Released,
    RouterEntry,
    RouterGone,
    RouterSilent,
    RoutingSeen,
    Started,
    StartPlacement,
    Submit,
    Wait,
    WaitedLong,
)
from actors.gateway.fleet import Candidate, Fleet
from actors.gateway.state import COUNTERS, Choice, State
from schemas.placement import Place
from schemas.refusal import RETRYABLE, Code, Refusal

ATTEMPTS = 4
"""Placements of a choice before its last refusal goes to the client."""
WITHOUT_ROUTER = 100
"""Placements without a router that did not answer: it must not stop the service."""
SILENT: frozenset[Code] = frozenset({"died", "unreachable", "stale"})
"""Refusals of an ask that say nothing about the request itself."""
OVER: frozenset[Code] = frozenset({"died", "stale"})
"""Refusals that say that a life is over."""
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


News = EngineEntry | EngineGone | RouterEntry | RouterGone | LoadSeen | RoutingSeen


class GatewayCore:
    """Every choice that was submitted ends once: finished, failed, or forgotten with its client."""

    def __init__(self, migration_limit: int = 3, migration_wait: float = 60.0) -> None:
        self._limit = migration_limit
        self._patience = migration_wait
        self.state = State(Fleet(), {}, [], {}, dict.fromkeys(COUNTERS, 0))

    def handle(self, event: Event) -> list[Effect]:
        state = self.state
        if isinstance(event, Started):
            return self._started(event)
        if isinstance(event, Finished):
            return self._finished(event)
        if isinstance(event, Submit):
            choice = state.choices[event.choice] = Choice(event, content=event.content)
            if event.content in state.suspects.quarantined:
                return self._fail(event.choice, choice, self._sentence())
            return self._place(event.choice, choice)
        if isinstance(event, Placed):
            return self._placed(event)
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
        """The router that is asked, or None: place by load."""
        routers, silent = self.state.routers, self.state.silent
        for i in range(len(routers)):
            router = routers[(self.state.turn + i) % len(routers)]
            if router not in silent:
                return router
        return None

    def block_size(self, model: str) -> int:
        """Tokens per block in which prompts are named to a router; 0 where none will be asked."""
        if self.router is None or len(self.state.fleet.candidates(model)) < 2:
            return 0
        return self.state.fleet.block_size(model)

    def _trouble(
        self, event: Due | WaitedLong | EngineDied | Quarantined | Released | News
    ) -> list[Effect]:
        if isinstance(event, Due):
            due = self.state.choices.get(event.choice)
            if due is None or due.phase != "pausing":
                return []
            return self._place(event.choice, due)
        if isinstance(event, WaitedLong):
            return self._waited(event)
        if isinstance(event, EngineDied):
            return self._died(event)
        if isinstance(event, Quarantined):
            self.state.suspects.quarantine(event.content)
            return self._judge()
        if isinstance(event, Released):
            self.state.suspects.release(event.content)
            return []
        self._learn(event)
        return self._wake() if isinstance(event, EngineEntry) else []

    def _learn(self, event: News) -> None:
        state = self.state
        if isinstance(event, LoadSeen):
            state.fleet.load(event)
        elif isinstance(event, RoutingSeen):
            state.routing[event.router] = event.routing
        elif isinstance(event, EngineEntry):
            state.fleet.entry(event)
            if event.ready:
                state.served |= dict.fromkeys(event.names)
        elif isinstance(event, EngineGone):
            state.fleet.gone(event)
        elif isinstance(event, RouterEntry) and event.ready:
            if event.router not in state.routers:
                state.routers.append(event.router)
                state.routers.sort()
        else:
            if event.router in state.routers:
                state.routers.remove(event.router)
            state.silent.pop(event.router, None)
            state.routing.pop(event.router, None)

    def _place(self, key: int, choice: Choice) -> list[Effect]:
        """One way to go: straight there. Several: as the router says, or by load without one."""
        request, fleet = choice.request, self.state.fleet
        if choice.content and self.state.must_queue(key, choice):
            return self._hold(key, choice)
        pinned = request.engine is not None or request.rank is not None
        everywhere = fleet.candidates(request.model, begun=choice.began)
        candidates = everywhere
        if pinned:
            candidates = self._candidates(choice)
        choice.attempts += 1
        if not candidates:
            return self._no_engine(key, choice)
        if len(everywhere) > 1:
            router = self.router
            self._forgive()
            if router is not None:
                return [self._ask(key, choice, router)]
        chosen = PINNED if pinned else ONLY
        if len(candidates) > 1:
            chosen = LEAST_LOADED
            self.state.counters["placed_by_load"] += 1
        engine, rank = fleet.least_loaded(candidates, choice.avoid)
        return [self._open(key, choice, engine, fleet.engines[engine].incarnation, rank, chosen)]

    def _candidates(self, choice: Choice) -> list[Candidate]:
        request = choice.request
        return self.state.fleet.candidates(
            request.model, request.rank, request.engine, begun=choice.began
        )

    def _ask(self, key: int, choice: Choice, router: str) -> AskPlacement:
        request = choice.request
        choice.phase, choice.routed = "placing", router
        self.state.counters["placed_by_router"] += 1
        avoid = list(choice.avoid)
        if choice.began:
            avoid += self.state.fleet.without_resumption(request.model)
        ask = Place(
            request.request_id,
            request.model,
            request.prompt_tokens,
            request.max_tokens,
            request.blocks,
            request.block_size,
            avoid,
            request.priority,
            request.session,
            request.engine,
            request.rank,
        )
        return AskPlacement(key, router, ask)

    def _forgive(self) -> None:
        """One placement more without the silent routers."""
        silent = self.state.silent
        for router in list(silent):
            silent[router] -= 1
            if silent[router] <= 0:
                del silent[router]

    def _no_engine(self, key: int, choice: Choice) -> list[Effect]:
        request = choice.request
        wrong = self.state.fleet.wrong_pin(request.model, request.engine, request.rank)
        if wrong is not None and choice.attempts == 1 and not choice.moves:
            return self._fail(key, choice, wrong)
        pinned = request.engine is not None or request.rank is not None
        if choice.moves or (request.model in self.state.served and not pinned):
            return self._hold(key, choice)
        where = request.engine or f"no engine of {request.model!r}"
        text = f"{where} is {'not ready' if request.engine else 'ready'}"
        return self._retry(key, choice, "not_ready", text)

    def _started(self, event: Started) -> list[Effect]:
        choice = self.state.choices.get(event.choice)
        if choice is None:
            return []
        choice.phase = "generating"
        choice.began, choice.armed = True, False
        if not choice.routed:
            return []
        return [StartPlacement(choice.routed, choice.request.request_id)]

    def _placed(self, event: Placed) -> list[Effect]:
        choice = self.state.choices.get(event.choice)
        if choice is None or choice.phase != "placing":
            return []
        if choice.began and not self.state.fleet.resumes(event.engine):
            return [*self._end_placement(choice), *self._hold(event.choice, choice)]
        return [self._open(event.choice, choice, event.engine, event.incarnation, event.rank)]

    def _open(
        self,
        key: int,
        choice: Choice,
        engine: str,
        incarnation: int,
        rank: int,
        chosen: str = "",
    ) -> OpenStream:
        choice.phase = "opening"
        choice.engine, choice.incarnation, choice.rank = engine, incarnation, rank
        self.state.fleet.placed(engine, incarnation, rank)
        choice.resumes = self.state.fleet.resumes(engine)
        return OpenStream(key, engine, incarnation, rank, chosen, choice.alone)

    def _refused(self, event: Refused) -> list[Effect]:
        choice = self.state.choices.get(event.choice)
        if choice is None:
            return []
        phase = choice.phase
        self._leave(choice)
        if phase == "placing":
            return self._not_placed(event, choice)
        if choice.engine not in choice.avoid:
            choice.avoid.append(choice.engine)
        if event.code in OVER:
            self._lost(event, choice)
        if event.tokens > choice.tokens:
            choice.tokens, choice.moves = event.tokens, 0
        if event.code not in RETRYABLE:
            return self._fail(event.choice, choice, self._refusal(event, choice))
        # Whoever places it next, the router that did so first must not go on counting it.
        ended = self._end_placement(choice)
        if phase == "generating" or event.code in SILENT:
            return ended + self._migrate(event, choice)
        elsewhere = self._elsewhere(choice)
        again = self._retry(event.choice, choice, event.code, event.message, at_once=elsewhere)
        return ended + again

    def _elsewhere(self, choice: Choice) -> bool:
        return any(engine not in choice.avoid for engine, _ in self._candidates(choice))

    def _lost(self, event: Refused, choice: Choice) -> None:
        """A life is over, and this choice was there."""
        state = self.state
        state.fleet.dead(choice.engine, choice.incarnation)
        if event.content:
            choice.content = event.content
            state.suspects.present(
                choice.engine, choice.incarnation, event.content, alone=choice.alone
            )

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
        if choice.moves > self._limit:
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
        return [Wait(key, self._patience, choice.turn)]

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
        text = f"no engine could take it for {self._patience:g} s"
        return cancel + self._fail(event.choice, choice, Refusal("not_ready", text))

    def _died(self, event: EngineDied) -> list[Effect]:
        suspects = self.state.suspects
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
            self._leave(choice)
            if choice.phase not in ("pausing", "waiting"):
                effects.append(Cancel(key))
            effects += self._end_placement(choice)
            if guilty:
                effects += self._fail(key, choice, self._sentence())
            else:
                effects += self._place(key, choice)
        return effects

    def _sentence(self) -> Refusal:
        self.state.counters["quarantined"] += 1
        text = "this request ended an engine that did nothing else: it is refused for a while"
        return Refusal("invalid", f"{text}; send it in another form")

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
        self._do_without(router)
        return self._place(event.choice, choice)

    def _silent(self, router: str) -> list[Effect]:
        """Whoever waits for it goes on without it."""
        state = self.state
        if router not in state.routers or router in state.silent:
            return []
        self._do_without(router)
        effects: list[Effect] = []
        for key, choice in list(state.choices.items()):
            if choice.phase == "placing" and choice.routed == router:
                effects += [Cancel(key), *self._end_placement(choice), *self._place(key, choice)]
        return effects

    def _do_without(self, router: str) -> None:
        self.state.silent[router] = WITHOUT_ROUTER
        self.state.counters["router_failed"] += 1

    def _retry(
        self, key: int, choice: Choice, code: Code, message: str, *, at_once: bool = False
    ) -> list[Effect]:
        """Again, after a pause unless another engine may take it. What migrates has patience."""
        if choice.attempts >= ATTEMPTS and not choice.moves:
            return self._fail(key, choice, Refusal(code, message))
        self.state.counters["retries"] += 1
        armed = self._arm(key, choice) if choice.moves else []
        if at_once:
            return armed + self._place(key, choice)
        return armed + self._pause(choice, key, choice.attempts)

    def _fail(self, key: int, choice: Choice, refusal: Refusal) -> list[Effect]:
        del self.state.choices[key]
        self.state.counters["failed"] += 1
        failed = Fail(key, refusal.code, refusal.message, refusal.param)
        return [*self._end_placement(choice), failed, *self._next_alone(key)]

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
        self._leave(choice)
        effects: list[Effect] = []
        if cancel and choice.phase not in ("pausing", "waiting"):
            effects.append(Cancel(key))
        if self.state.alone == key:
            return [*effects, *self._end_placement(choice), *self._next_alone(key)]
        return effects + self._end_placement(choice)

    def _leave(self, choice: Choice) -> None:
        if choice.phase in ("opening", "generating"):
            self.state.fleet.left(choice.engine, choice.incarnation, choice.rank)

    def _end_placement(self, choice: Choice) -> list[Effect]:
        router, choice.routed = choice.routed, ""
        return [EndPlacement(router, choice.request.request_id)] if router else []

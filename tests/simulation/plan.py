"""What happens in one run of the whole topology: requests and faults, fixed by a seed.

A plan is data: any part of it may be left out, and its `repr` is Python that makes it again. So a
failing one can be shrunk (`tests.simulation.shrink`) and kept as a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from bus.identity import kind_of

Action = Literal["kill", "stop", "restart", "cut", "part", "lose", "slow"]
"""SIGKILL; SIGSTOP for `seconds`; a drain and the next life; all connections to `other` break;
nobody reaches it for `seconds`; events get lost, or messages are late, for `seconds`."""
WEIGHTS = {"engine": 5, "gateway": 2, "router": 2, "kv-events": 2, "config": 1, "monitor": 1}
"""Who a fault meets, and how often: an engine's end is what most depends on."""
CALM = 1.0
"""Seconds in which a topology gets ready."""
TROUBLE = 2.5
"""Seconds of requests and faults after that."""

HUNG = 2.5
"""Seconds after which the monitor calls what is stopped hung."""
LONGEST: dict[Action, float] = {"stop": 2 * HUNG, "part": 1.0, "lose": 1.0, "slow": 1.0}
"""Seconds; what is not named is over at once."""


@dataclass(frozen=True)
class Request:
    """Sent to a gateway `at` seconds; the prompt has `blocks` blocks of its `story`."""

    at: float
    gateway: str
    story: int
    blocks: int
    tokens: int


@dataclass(frozen=True)
class Fault:
    at: float
    action: Action
    actor: str
    other: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """`seed` is that of the network: delays, and which messages are lost."""

    seed: int
    actors: Sequence[str]
    requests: Sequence[Request]
    faults: Sequence[Fault]


def draw(seed: int) -> Plan:
    random = Random(seed)
    actors = _actors(random)
    gateways = [actor for actor in actors if kind_of(actor) == "gateway"]
    requests = [
        Request(
            round(random.uniform(CALM, CALM + TROUBLE), 3),
            random.choice(gateways),
            random.randrange(3),
            random.randrange(5),
            random.choice([1, 10, 50, 100]),
        )
        for _ in range(random.randrange(3, 12))
    ]
    faults = [_fault(random, actors) for _ in range(random.randrange(1, 8))]
    return Plan(seed, actors, sorted(requests, key=_at), sorted(faults, key=_at))


def _actors(random: Random) -> list[str]:
    """In the order of their start. From one engine and gateway up to two of everything."""
    engines = range(random.choice([1, 2, 2, 2]))
    events = random.choice([True, True, False])
    return [
        "config/0",
        "monitor/0",
        *(f"kv-events/{n}.0" for n in engines if events),
        *(f"engine/{n}" for n in engines),
        *(f"router/{n}" for n in range(random.choice([0, 1, 1, 2]))),
        *(f"gateway/{n}" for n in range(random.choice([1, 1, 2]))),
    ]


def _fault(random: Random, actors: Sequence[str]) -> Fault:
    at = round(random.uniform(CALM, CALM + TROUBLE), 3)
    action = random.choices(get_args(Action), (6, 3, 2, 2, 2, 1, 1))[0]
    weights = [WEIGHTS[kind_of(actor)] for actor in actors]
    actor = random.choices(actors, weights)[0]
    other = random.choice(actors) if action == "cut" else ""
    longest = LONGEST.get(action, 0.0)
    seconds = round(random.uniform(0.05, longest), 3) if longest else 0.0
    return Fault(at, action, actor, other, seconds)


def _at(thing: Request | Fault) -> float:
    return thing.at

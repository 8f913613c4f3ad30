"""What is done to whom, and when: fixed by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Action = Literal["kill", "stop", "restart"]


@dataclass(frozen=True)
class Fault:
    """`at` in seconds after the load began."""

    at: float
    action: Action
    actor: str


def plan(seed: int, seconds: float, actors: Sequence[str], every: float = 1.5) -> list[Fault]:
    """Faults every 0.5 to 1.5 times `every` seconds.

    Each action meets each kind of actor before one meets it again, as far as the time allows; which
    of the kind is drawn.
    """
    draw = random.Random(seed)
    kinds = sorted({actor.partition("/")[0] for actor in actors})
    faults: list[Fault] = []
    left: list[tuple[Action, str]] = []
    at = every
    while at < seconds:
        if not left:
            left = [(action, kind) for action in get_args(Action) for kind in kinds]
            draw.shuffle(left)
        action, kind = left.pop()
        of_kind = [actor for actor in actors if actor.startswith(f"{kind}/")]
        faults.append(Fault(round(at, 3), action, draw.choice(of_kind)))
        at += every * draw.uniform(0.5, 1.5)
    return faults

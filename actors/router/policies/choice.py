"""What every policy is given: candidates, never none, and what else a choice depends on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from actors.router.cost import Candidate
from actors.router.settings import Settings


class Given(msgspec.Struct, frozen=True, gc=False):
    """`random` has 64 bits. `transferred`: the prompt is computed elsewhere."""

    prompt_tokens: int
    settings: Settings
    random: int
    transferred: bool = False


Choose = Callable[[Sequence[Candidate], Given], Candidate]

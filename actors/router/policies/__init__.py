"""The policies by their names: each sets the candidates' costs and takes one of them.

`approximate` and `session` choose as `kv` does: the first differs in what is believed to be cached,
the second in what is done before there is anything to choose.
"""

from actors.router.policies import kv, least_loaded, power_of_two, random, round_robin
from actors.router.policies.choice import Choose
from schemas.placement import Policy

CHOOSE: dict[Policy, Choose] = {
    "kv": kv.choose,
    "approximate": kv.choose,
    "session": kv.choose,
    "least-loaded": least_loaded.choose,
    "power-of-two": power_of_two.choose,
    "round-robin": round_robin.choose,
    "random": random.choose,
}

USES_BLOCKS: frozenset[Policy] = frozenset({"kv", "approximate", "session"})
"""Policies for which it matters what ranks have cached."""
USES_EVENTS: frozenset[Policy] = frozenset({"kv", "session"})
"""Policies that want KV events."""

__all__ = ["CHOOSE", "USES_BLOCKS", "USES_EVENTS", "Choose"]

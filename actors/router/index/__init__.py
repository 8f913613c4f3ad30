"""Which ranks hold the KV blocks of a prompt: the prefix index, and a guess for want of events."""

from actors.router.index.approximate import Approximate, Guess, Guesses, RankId
from actors.router.index.index import PIECES, Index, Owner, Slots
from actors.router.index.table import Found

__all__ = [
    "PIECES",
    "Approximate",
    "Found",
    "Guess",
    "Guesses",
    "Index",
    "Owner",
    "RankId",
    "Slots",
]

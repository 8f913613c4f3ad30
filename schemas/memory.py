"""How shared memory of one life of an engine is named, so that it is found when all of it is dead.

Files of /dev/shm that Python's `multiprocessing` makes in the engine's processes: shared memory is
`PREFIX_` and four letters, a semaphore `sem.PREFIX-` and eight, instead of names that could be
anybody's.
"""

from __future__ import annotations

PREFIX = "CALLBOARD_MEMORY_PREFIX"
"""Environment variable: eight letters that no other life has. Unset: names are Python's own."""

"""The journal of an actor: what came, what went, what its core decided. See `docs/journal.md`."""

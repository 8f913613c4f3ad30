"""RouterActor: where a request shall run."""

from actors.router.actor import RouterActor

__all__ = ["RouterActor"]

"""ConfigActor: one validated, versioned document, and the directory."""

from actors.config.actor import ConfigActor

__all__ = ["ConfigActor"]

"""GatewayActor: HTTP in, engine streams out."""

from actors.gateway.actor import GatewayActor

__all__ = ["GatewayActor"]

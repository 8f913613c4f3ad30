"""The HTTP side of GatewayActor: OpenAI's API as an ASGI application. It knows no bus."""

from __future__ import annotations

from actors.gateway.http.app import make_app

__all__ = ["make_app"]

"""What every request needs of the gateway around it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from structlog.typing import FilteringBoundLogger

from actors.gateway.choice import Service
from actors.gateway.health import Health
from actors.gateway.http.asgi import Scope
from actors.gateway.http.errors import ApiError
from actors.gateway.http.pipe import Flusher
from actors.gateway.models import Model, Models


class Context(msgspec.Struct, frozen=True):
    """`draining` says whether new requests are refused; `health` is the body of `/health`; `abort`
    ends a connection at once, with all that waits for its client.
    """

    service: Service
    models: Models
    flusher: Flusher
    count: Callable[[str], None]
    log: FilteringBoundLogger
    draining: Callable[[], bool]
    health: Callable[[], Health]
    abort: Callable[[Scope], None]
    keys: tuple[bytes, ...]
    max_body_bytes: int
    max_pending_bytes: int

    def admit(self, timeout: float | None) -> float | None:
        """As `Service.admit`. Raises ApiError also while the gateway stops."""
        if self.draining():
            raise ApiError(
                503, "The gateway is stopping: try again, another will answer.", last=True
            )
        return self.service.admit(timeout)

    def model(self, name: str | None) -> Model:
        """Raises ApiError where no engine offers it."""
        model = self.models.find(name)
        if model is not None:
            return model
        offered = ", ".join(repr(known) for known, _ in self.models.offered()) or "none"
        if not name:
            raise ApiError(400, f"model is missing. Offered are: {offered}.", param="model")
        if offered == "none":
            # A gateway that has just started may not know yet who lives.
            raise ApiError(503, "No engine is known here yet: try again.")
        raise ApiError(
            404, f"The model {name[:200]!r} does not exist. Offered are: {offered}.", param="model"
        )


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of this (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None

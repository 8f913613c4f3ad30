"""The adapters of a vLLM engine: loaded when it is up, chosen by each request."""

from __future__ import annotations

from typing import Any

from vllm.lora.request import LoRARequest

from actors.engine.adapters import check_loaded
from actors.engine.backend import InvalidRequest
from schemas.generate import Generate


class Adapters:
    """`apart`: requests of the model itself are refused.

    On a CPU, vLLM 0.32 computes these wrongly in one batch with an adapter's.
    """

    def __init__(self, modules: dict[str, str], *, apart: bool) -> None:
        self._requests = {
            name: LoRARequest(name, number, path)
            for number, (name, path) in enumerate(modules.items(), 1)
        }
        self._apart = apart and bool(modules)

    async def load(self, llm: Any) -> None:
        """Raises what vLLM does for one that it cannot load."""
        for request in self._requests.values():
            await llm.add_lora(request)

    def of(self, request: Generate) -> LoRARequest | None:
        """Raises InvalidRequest."""
        check_loaded(request, self._requests)
        if request.lora is not None:
            return self._requests[request.lora]
        if self._apart:
            names = ", ".join(self._requests)
            raise InvalidRequest(
                "on a CPU vLLM computes requests of the model wrongly beside those of its "
                f"adapters: ask for one of {names}, or serve the model by an engine of its own"
            )
        return None

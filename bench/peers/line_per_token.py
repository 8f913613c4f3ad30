"""vLLM over `NullExecutor`, sending an SSE line for each token as the other servers do.

vLLM merges tokens that its API server has not sent yet into one line. Over an engine that computes
nothing that is most of them, and the rows would not compare. A bench-only change: importing this
module, which vLLM does in its API server for the executor's name, replaces the merging by a queue.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from vllm.v1.engine import output_processor

from bench.peers.null_executor import NullExecutor


class QueueCollector(output_processor.RequestOutputCollector):
    """As vLLM's own, but each output stays by itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outputs: deque[Any] = deque()

    def put(self, output: Any) -> None:
        self.outputs.append(output)
        self.ready.set()

    async def get(self) -> Any:
        while not self.outputs:
            self.ready.clear()
            await self.ready.wait()
        return self.get_nowait()

    def get_nowait(self) -> Any:
        output = self.outputs.popleft() if self.outputs else None
        if isinstance(output, Exception):
            raise output
        return output


class LinePerToken(NullExecutor):
    """Named by `--distributed-executor-backend`; all it adds is this module's import."""


def _replace() -> None:
    """AsyncLLM may have been imported before and hold the class by name: change both."""
    from vllm.v1.engine import async_llm

    output_processor.RequestOutputCollector = QueueCollector  # type: ignore[misc]
    async_llm.RequestOutputCollector = QueueCollector  # type: ignore[misc]


_replace()

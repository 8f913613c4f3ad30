"""Ray actor calls: an actor in a worker process of its own, called by the driver."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from bench.askers import pattern

PENDING = 4000
"""Ray warns of its memory above 5,000 calls in flight; so every so many are waited for."""


@ray.remote(num_cpus=1)
class Answerer:
    def __init__(self) -> None:
        self.told = 0

    def echo(self, payload: str) -> str:
        return payload

    def tell(self, payload: str) -> None:
        self.told += 1

    def count(self) -> int:
        return self.told


class Ray:
    """Blocking `ray.get`: the quicker of Ray's two ways to wait here."""

    def __init__(self) -> None:
        self.actor: Any = Answerer.remote()

    async def ask(self, payload: str) -> None:
        ray.get(self.actor.echo.remote(payload))

    async def tell(self, payload: str, count: int) -> None:
        tell = self.actor.tell
        for sent in range(count):
            tell.remote(payload)
            if sent % PENDING == PENDING - 1:
                await self.counted()

    async def counted(self) -> int:
        return int(ray.get(self.actor.count.remote()))


def main() -> None:
    options = pattern.arguments(__doc__).parse_args()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        pattern.report(asyncio.run(pattern.measure(Ray(), options.sizes, options.seconds)))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()

"""The waiting queue of a simulated rank."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Protocol

from actors.engine.sim.request import SimRequest


class Waiting(Protocol):
    """Requests that do not run, in the order in which they will."""

    def __len__(self) -> int: ...

    def add(self, request: SimRequest) -> None:
        """A new request."""

    def put_back(self, request: SimRequest) -> None:
        """A preempted request."""

    def first(self) -> SimRequest:
        """The one to run next; the queue is not empty."""

    def pop(self) -> SimRequest:
        """Take the first out."""

    def remove(self, request: SimRequest) -> None:
        """Take this one out."""


class Fcfs(deque[SimRequest]):
    """First come, first served; a preempted request goes to the front."""

    add = deque.append
    put_back = deque.appendleft
    pop = deque.popleft

    def first(self) -> SimRequest:
        return self[0]


class Priority:
    """Smaller priority first, then earlier arrival; a preempted request takes its old place."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], SimRequest]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, request: SimRequest) -> None:
        heapq.heappush(self._heap, (request.order, request))

    put_back = add

    def first(self) -> SimRequest:
        return self._heap[0][1]

    def pop(self) -> SimRequest:
        return heapq.heappop(self._heap)[1]

    def remove(self, request: SimRequest) -> None:
        self._heap.remove((request.order, request))
        heapq.heapify(self._heap)

"""How a method of somebody else's class gets something of ours around it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any


def replace(owner: type, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
    """`make` gets the method and gives what stands in its place, with the method's own name.

    Raises AttributeError where the class has no such method.
    """
    found = getattr(owner, name)
    setattr(owner, name, wraps(found)(make(found)))

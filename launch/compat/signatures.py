"""Compares what Callboard uses with the sources of one release, without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from launch.compat.sources import Sources, members, parameters
from launch.compat.uses import USES, Use


def missing(sources: Sources, uses: Iterable[Use] = USES) -> list[str]:
    """One sentence for each thing that is used and is not there."""
    return [sentence for use in uses for sentence in _missing(sources, use)]


def _missing(sources: Sources, use: Use) -> list[str]:
    found = sources.find(use.module, use.name)
    if found is None:
        return [f"{use.module} has no {use.name}"]
    module, definition = found
    own = members(sources, module, definition) if isinstance(definition, ast.ClassDef) else {}
    lacks = [f"{use} has no member {name}" for name in use.members if name not in own]
    if not use.call:
        return lacks
    function = own.get(use.method) if use.method else definition
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return [*lacks, f"{use} is no function"]
    taken = parameters(function)
    return [*lacks, *(f"{use} takes no {name}" for name in use.call if name not in taken)]

"""Dynamo's flags and variables, and what becomes of each here: one table for parser, help, docs."""

from __future__ import annotations

from functools import cache

from launch.flags.reference.frontend import FRONTEND
from launch.flags.reference.router import ROUTER
from launch.flags.reference.row import Fate, Row
from launch.flags.reference.runtime import RUNTIME
from launch.flags.reference.worker import WORKER
from launch.flags.table import Flag

ROWS = [*RUNTIME, *WORKER, *ROUTER, *FRONTEND]

__all__ = ["ROWS", "Fate", "Row", "by_field", "by_variable", "flags"]


@cache
def by_field() -> dict[str, Row]:
    return {row.field: row for row in ROWS}


@cache
def by_variable() -> dict[str, Row]:
    return {variable: row for row in ROWS for variable in row.variables}


def flags() -> list[Flag]:
    """Those that a command line may have."""
    return [row.as_flag() for row in ROWS if row.flags]

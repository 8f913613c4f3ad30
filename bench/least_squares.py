"""Linear least squares with coefficients of at least 0, for a handful of unknowns."""

from __future__ import annotations

from collections.abc import Sequence

Row = Sequence[float]


def solve(rows: Sequence[Row], values: Sequence[float]) -> list[float]:
    """Coefficients x >= 0 that bring rows * x nearest to `values`, by relative error.

    What comes out negative is set to 0, the most negative first, and the rest solved again.
    Raises `ZeroDivisionError` if the rows do not determine the coefficients.
    """
    width = len(rows[0])
    scaled = [[cell / value for cell in row] for row, value in zip(rows, values, strict=True)]
    kept = list(range(width))
    while True:
        found = _normal([[row[i] for i in kept] for row in scaled])
        worst = min(range(len(kept)), key=lambda i: found[i])
        if found[worst] >= 0:
            by_place = dict(zip(kept, found, strict=True))
            return [by_place.get(i, 0.0) for i in range(width)]
        del kept[worst]


def _normal(rows: Sequence[Row]) -> list[float]:
    """The normal equations for the value 1 in each row, by Gauss with pivots."""
    width = len(rows[0])
    units = [max(abs(row[i]) for row in rows) for i in range(width)]  # for the condition
    rows = [[cell / unit for cell, unit in zip(row, units, strict=True)] for row in rows]
    table = [
        [sum(row[i] * row[j] for row in rows) for j in range(width)] + [sum(row[i] for row in rows)]
        for i in range(width)
    ]
    for i in range(width):
        pivot = max(range(i, width), key=lambda k: abs(table[k][i]))
        table[i], table[pivot] = table[pivot], table[i]
        for k in range(width):
            if k != i:
                factor = table[k][i] / table[i][i]
                table[k] = [a - factor * b for a, b in zip(table[k], table[i], strict=True)]
    return [table[i][width] / table[i][i] / units[i] for i in range(width)]

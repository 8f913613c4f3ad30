"""A plot of TTFT p90 over the rate, by policy, as SVG. Both axes are logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bench.routing.measure import Row

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 20, 45
COLOURS = ("#0b6e4f", "#3a86c8", "#c77d0a", "#8e44ad", "#c0392b")
TICKS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def svg(rows: Sequence[Row], title: str) -> str:
    policies = list(dict.fromkeys(str(row["policy"]) for row in rows))
    rates = sorted({float(row["rate"]) for row in rows})
    values = [float(row["ttft_p90"]) for row in rows]
    low = max(tick for tick in TICKS if tick <= max(min(values), TICKS[0]))
    high = min(tick for tick in (*TICKS, 1e3) if tick >= max(values))
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f"<title>{title}</title>",
    ]

    def x(rate: float) -> float:
        return LEFT + _share(rate, rates[0], rates[-1]) * (WIDTH - LEFT - RIGHT)

    def y(seconds: float) -> float:
        return HEIGHT - BOTTOM - _share(seconds, low, high) * (HEIGHT - TOP - BOTTOM)

    for tick in TICKS:
        if low <= tick <= high:
            lines.append(_line([(LEFT, y(tick)), (WIDTH - RIGHT, y(tick))], "#dddddd", 1))
            lines.append(_text(LEFT - 8, y(tick) + 4, f"{tick:g} s", "end"))
    under = HEIGHT - BOTTOM + 18
    lines += [_text(x(rate), under, f"{rate:g}", "middle") for rate in rates]
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(_text(middle, HEIGHT - 8, "requests per second (TTFT p90 above)", "middle"))
    for place, policy in enumerate(policies):
        colour = COLOURS[place % len(COLOURS)]
        own = sorted((row["rate"], row["ttft_p90"]) for row in rows if row["policy"] == policy)
        points = [(x(rate), y(seconds)) for rate, seconds in own]
        lines.append(_line(points, colour, 2))
        lines += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
        at = TOP + 16 + 20 * place
        lines.append(_line([(WIDTH - RIGHT + 12, at - 4), (WIDTH - RIGHT + 32, at - 4)], colour, 2))
        lines.append(_text(WIDTH - RIGHT + 38, at, policy, "start"))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _share(value: float, low: float, high: float) -> float:
    return math.log(max(value, low) / low) / math.log(high / low)


def _line(points: Iterable[tuple[float, float]], colour: str, width: int) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'

"""Charts as SVG: bars for what was reached of each goal, and curves of how figures grow. Readable in light and dark."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from msgspec import Struct

WIDTH, LINE = 760, 26
#: Of the text at the left of bars, and of the room for what is written behind them.
LABELS, BEHIND = 330, 120
STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 14px } .faint { fill: #57606a }
.axis { stroke: #8c959f; stroke-width: 1; fill: none } .mark { stroke: #24292f; stroke-dasharray: 4 3 }
.met { fill: #2da44e } .missed { fill: #cf222e }
.c0 { stroke: #0969da; fill: #0969da } .c1 { stroke: #bf8700; fill: #bf8700 } .c2 { stroke: #8250df; fill: #8250df }
.c3 { stroke: #1b7c83; fill: #1b7c83 } .c4 { stroke: #bf3989; fill: #bf3989 }
.curve { fill: none; stroke-width: 2 } text.c0, text.c1, text.c2, text.c3, text.c4 { stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .faint { fill: #9198a1 } .mark { stroke: #e6edf3 }
  .met { fill: #3fb950 } .missed { fill: #f85149 }
  .c0 { stroke: #4493f8; fill: #4493f8 } .c1 { stroke: #d29922; fill: #d29922 } .c2 { stroke: #ab7df8; fill: #ab7df8 }
  .c3 { stroke: #39c5cf; fill: #39c5cf } .c4 { stroke: #db61a2; fill: #db61a2 }
}
</style>"""


class Bar(Struct, frozen=True):
    """`share` of what was wanted: 1 is just met."""

    label: str
    share: float
    text: str
    met: bool


class Point(Struct, frozen=True):
    x: float
    y: float


def bars(title: str, all_bars: Sequence[Bar]) -> str:
    """How much of each goal was reached, from a tenth to ten times, on a logarithmic scale; the line is the goal."""
    height = 60 + LINE * len(all_bars)
    room = WIDTH - LABELS - BEHIND
    goal = LABELS + room / 2
    parts = [_text(10, 24, title, "title")]
    for n, bar in enumerate(all_bars):
        y = 44 + LINE * n
        length = room / 2 * (1 + max(-0.98, min(1.0, math.log10(max(bar.share, 1e-9)))))
        kind = "met" if bar.met else "missed"
        parts += [
            _text(LABELS - 10, y + 13, bar.label, end=True),
            f'<rect class="{kind}" x="{LABELS}" y="{y}" width="{length:.1f}" height="18" rx="2"/>',
            _text(max(LABELS + length, goal) + 6, y + 13, bar.text, "faint"),
        ]
    parts.append(f'<path class="mark" d="M{goal:.1f} 38V{height - 18}"/>')
    parts.append(_text(goal, height - 4, "goal", "faint", middle=True))
    return _svg(height, title, parts)


def curves(title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[Point]]) -> str:
    """Both axes logarithmic; each series in its colour with its name at its end."""
    height, left, right, top, bottom = 340, 60, 180, 44, 46
    points = [point for line in series.values() for point in line]
    across = _Scale([point.x for point in points], left, WIDTH - right)
    up = _Scale([point.y for point in points], height - bottom, top)
    parts = [
        _text(10, 24, title, "title"),
        f'<path class="axis" d="M{left} {top}V{height - bottom}H{WIDTH - right}"/>',
        _text((left + WIDTH - right) / 2, height - 8, x_label, "faint", middle=True),
        _text(10, top - 6, y_label, "faint"),
    ]
    parts += [_text(across.at(x), height - bottom + 16, f"{x:,g}", "faint", middle=True) for x in across.marks]
    parts += [_text(left - 6, up.at(y) + 4, f"{y:,g}", "faint", end=True) for y in up.marks]
    ends = _apart([up.at(line[-1].y) for line in series.values()])
    for n, ((name, line), end) in enumerate(zip(series.items(), ends, strict=True)):
        places = [(across.at(point.x), up.at(point.y)) for point in line]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="curve c{n % 5}" style="fill: none" d="M{path}"/>')
        parts += [f'<circle class="c{n % 5}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
        parts.append(_text(places[-1][0] + 8, end + 4, name, f"c{n % 5}"))
    return _svg(height, title, parts)


class _Scale:
    """Logarithmic, from whole powers of ten, or of half ones where the values lie close together."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self._begin, self._end = begin, end
        low, high = math.log10(min(values)), math.log10(max(values))
        self._low, self._high = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
        steps = range(self._low, self._high + 1)
        self.marks = [10.0**step for step in steps]

    def at(self, value: float) -> float:
        return self._begin + (math.log10(value) - self._low) / (self._high - self._low) * (self._end - self._begin)


def _apart(places: Sequence[float]) -> list[float]:
    """The places of labels, moved down where they would lie upon each other."""
    moved = dict.fromkeys(range(len(places)), 0.0)
    last = -math.inf
    for n in sorted(moved, key=places.__getitem__):
        last = moved[n] = max(places[n], last + 15)
    return list(moved.values())


def _text(x: float, y: float, text: str, kind: str = "", *, end: bool = False, middle: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ' text-anchor="middle"' if middle else ""
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}"{anchor}>{escape(text)}</text>'


def _svg(height: float, title: str, parts: Iterable[str]) -> str:
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    return "\n".join([head, STYLE, *parts, "</svg>", ""])

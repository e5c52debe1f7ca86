"""Pictures as SVG, made on the server: nothing to load, nothing to run. Pure.

Colours come from the style sheet through classes; every picture has a text for those who cannot see it.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from markupsafe import Markup, escape
from msgspec import Struct

#: Width and height of a chart, in units of its own that are about one pixel.
WIDTH, HEIGHT = 340, 132
LEFT, RIGHT, TOP, BOTTOM = 56, 6, 10, 20
NANO = 1_000_000_000


class Line(Struct, frozen=True):
    """One line of a chart: (time in nanoseconds since 1970, value) in order of time."""

    label: str
    points: Sequence[tuple[int, float]]


def line_chart(
    lines: Sequence[Line], start: int, end: int, write: Callable[[float], str], *, ceiling: float | None = None
) -> Markup:
    """Values over time. `ceiling`: the top of the scale; else it follows from the values."""
    top = ceiling or _round_up(max((value for line in lines for _, value in line.points), default=0.0))
    parts = [_grid(top, write), _time_axis(start, end)]
    for index, line in enumerate(lines):
        parts += [_line(run, start, end, top, index) for run in _runs(line.points, (end - start) // 40)]
    label = "; ".join(f"{line.label}: {write(line.points[-1][1])}" for line in lines if line.points) or "no values"
    return _svg(f"0 0 {WIDTH} {HEIGHT}", "chart", label, parts)


def _runs(points: Sequence[tuple[int, float]], gap: int) -> list[list[tuple[int, float]]]:
    """The points, cut where nothing was measured for a while: no line is drawn over what is not known."""
    runs: list[list[tuple[int, float]]] = []
    for point in points:
        if not runs or point[0] - runs[-1][-1][0] > max(gap, 90 * NANO):
            runs.append([])
        runs[-1].append(point)
    return runs


def _line(run: Sequence[tuple[int, float]], start: int, end: int, top: float, index: int) -> Markup:
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    places = [
        (LEFT + wide * (time - start) / max(1, end - start), TOP + high * (1 - min(value, top) / top))
        for time, value in run
    ]
    if len(places) == 1:
        x, y = places[0]
        return Markup('<circle class="dot n{}" cx="{:.1f}" cy="{:.1f}" r="1.6"/>').format(index, x, y)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    line = Markup('<polyline class="line n{}" points="{}"/>').format(index, path)
    if index:
        return line
    base = HEIGHT - BOTTOM
    area = f"{places[0][0]:.1f},{base} {path} {places[-1][0]:.1f},{base}"
    return Markup('<polygon class="area n{}" points="{}"/>').format(index, area) + line


def _grid(top: float, write: Callable[[float], str]) -> Markup:
    rows = Markup()
    for share in (0.0, 0.5, 1.0):
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)
        rows += Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH - RIGHT, y, y)
        rows += Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            LEFT - 6, y + 3.5, write(top * share)
        )
    return rows


def _time_axis(start: int, end: int) -> Markup:
    form = "%H:%M" if end - start <= 2 * 86_400 * NANO else "%d %b"
    marks = Markup()
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        at = datetime.fromtimestamp((start + (end - start) * share) / NANO, UTC)
        x = LEFT + (WIDTH - LEFT - RIGHT) * share
        marks += Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
            x, HEIGHT - 5, anchor, at.strftime(form)
        )
    return marks


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** len(str(int(value))) / 10 if value >= 1 else 1.0
    while power > value:
        power /= 10
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def bars(counts: Sequence[int], labels: Sequence[str], title: str) -> Markup:
    """A small bar for each count, side by side."""
    high, gap = 120, 2
    wide = 720 / max(1, len(counts))
    top = max([*counts, 1])
    parts = [
        Markup(
            '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1.5"><title>{}</title></rect>'
        ).format(index * wide, high - max(1.5, high * count / top), wide - gap, max(1.5, high * count / top), label)
        for index, (count, label) in enumerate(zip(counts, labels, strict=True))
    ]
    return _svg(f"0 0 720 {high}", "bars", title, parts, stretch=True)


def share_bar(counts: Mapping[str, int], title: str = "") -> Markup:
    """Parts of a whole, one after the other, each in the colour of its state."""
    total = sum(counts.values())
    if not total:
        return _svg(
            "0 0 600 10", "share", "none", [Markup('<rect class="empty" width="600" height="10"/>')], stretch=True
        )
    parts, x = [], 0.0
    for state, count in counts.items():
        if count:
            wide = 600 * count / total
            parts.append(
                Markup('<rect class="fill s-{}" x="{:.2f}" width="{:.2f}" height="10"><title>{}</title></rect>').format(
                    state, x, max(wide - 1.5, 1), f"{count:,} {state.replace('_', ' ')}"
                )
            )
            x += wide
    label = title or ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in counts.items() if count)
    return _svg("0 0 600 10", "share", label, parts, stretch=True)


def meter(share: float, title: str) -> Markup:
    """How full something is, 0 to 1."""
    level = "high" if share >= 0.9 else "middle" if share >= 0.75 else "low"
    parts = [
        Markup('<rect class="empty" width="600" height="10"/>'),
        Markup('<rect class="fill m-{}" width="{:.1f}" height="10"/>').format(level, 600 * min(max(share, 0.0), 1.0)),
    ]
    return _svg("0 0 600 10", "share", title, parts, stretch=True)


class Segment(Struct, frozen=True):
    """A stretch of a job's life, with its state and its times in seconds since it was submitted."""

    state: str
    start: float
    end: float
    label: str


def timeline(segments: Sequence[Segment]) -> Markup:
    """A job's life from left to right. Very short stretches are drawn wide enough to be seen."""
    total = sum(segment.end - segment.start for segment in segments) or 1.0
    widths = [max(14.0, 720 * (segment.end - segment.start) / total) for segment in segments]
    scale = 720 / (sum(widths) or 1)
    parts, x = [], 0.0
    for segment, width in zip(segments, widths, strict=True):
        parts.append(
            Markup(
                '<rect class="fill s-{}" x="{:.1f}" width="{:.1f}" height="18" rx="3"><title>{}</title></rect>'
            ).format(segment.state, x, max(2.0, width * scale - 2), segment.label)
        )
        x += width * scale
    return _svg("0 0 720 18", "timeline", "; ".join(segment.label for segment in segments), parts, stretch=True)


def stretch_bar(start: float, share: float, kind: str) -> Markup:
    """A part of a whole at its place, both from 0 to 1; very short ones are wide enough to be seen. The text beside
    it says the same.
    """
    width = max(4.0, 600 * share)
    x = min(600 * start, 600 - width)
    return Markup(
        '<svg class="stretch" viewBox="0 0 600 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="empty" width="600" height="10"/><rect class="b-{}" x="{:.1f}" width="{:.1f}" height="10"/></svg>'
    ).format(kind, x, width)


def _svg(box: str, name: str, label: str, parts: Sequence[Markup], *, stretch: bool = False) -> Markup:
    fit = Markup(' preserveAspectRatio="none"') if stretch else ""
    return Markup('<svg class="{}" viewBox="{}" role="img" aria-label="{}"{}>{}</svg>').format(
        name, box, escape(label), fit, Markup().join(parts)
    )

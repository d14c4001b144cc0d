"""Charts as SVG text: lines with bands, points with error bars, and series. Knows numbers and labels alone.

Colours are CSS variables with values for light backgrounds (Okabe and Ito's, which colour-blind readers tell apart), so
that a page may give others; lines also differ in their dashes.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import attrs

from bitrl.core.studies.curves import Curve
from bitrl.core.terminal import printable

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 68, 16, 14, 46
COLOURS = ("#0072b2", "#d55e00", "#007a5a", "#b0569b", "#8a6d00", "#3a86b8", "#555555", "#9b2226")
BESIDE, BENEATH = 28, 62
"""Characters of a label that two columns of a legend have room for on a phone, where letters are large, and one has."""
DASHES = ("", "7 4", "2 3", "9 3 2 3")
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:var(--ink,#1a1a1a)}"
    ".grid{stroke:var(--grid,#dddddd)}.axis{stroke:var(--ink,#1a1a1a)}"
    + "".join(f".c{n}{{stroke:var(--c{n},{colour});fill:var(--c{n},{colour})}}" for n, colour in enumerate(COLOURS))
    + ".line{fill:none;stroke-width:2}.band{stroke:none;opacity:.18}.bar{stroke-width:1.5}"
    "@media(max-width:600px){text{font-size:19px}}"
)


@attrs.frozen
class Point:
    """A point (x, y) with the interval of y, if it is known."""

    label: str
    x: float
    y: float
    interval: tuple[float, float] | None = None


@attrs.frozen
class Series:
    """Points (x, y) in order: connected by a line, or marked by dots."""

    label: str
    points: tuple[tuple[float, float], ...]
    line: bool = False


@attrs.frozen
class _Scale:
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers along it."""
        return log_ticks(self.low, self.high) if self.logarithmic else ticks(self.low, self.high)


def escaped(text: str) -> str:
    r"""Text as SVG and HTML have it. SVG has no way to write a control character, which becomes `\x00`."""
    return html.escape(printable(text))


def line_chart(title: str, x_label: str, y_label: str, curves: Sequence[Curve]) -> str:
    """Curves with their bands."""
    xs = [float(step) for curve in curves for step in curve.steps]
    if not xs:
        return _empty(title)
    low, high = visible(curves)
    x, y = _scales(min(xs), max(xs), low, high)
    parts = []
    for number, curve in enumerate(curves):
        colour = number % len(COLOURS)
        if curve.low and curve.high:
            upper = [(step, min(value, high)) for step, value in zip(curve.steps, curve.high, strict=True)]
            lower = [(step, max(value, low)) for step, value in zip(curve.steps, curve.low, strict=True)]
            outline = _path([*upper, *reversed(lower)], x, y)
            parts.append(f'<path class="band c{colour}" d="{outline}Z"/>')
    for number, curve in enumerate(curves):
        if len(curve.steps) == 1:  # of which no line is seen
            left, top = x(curve.steps[0]), y(curve.mean[0])
            parts.append(f'<circle class="c{number % len(COLOURS)}" cx="{left:.1f}" cy="{top:.1f}" r="4"/>')
            continue
        dash = dash_of(number)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        line = _path(list(zip(curve.steps, curve.mean, strict=True)), x, y)
        parts.append(f'<path class="line c{number % len(COLOURS)}"{dashed} d="{line}" style="fill:none"/>')
    labels = [curve.label for curve in curves]
    return _svg(title, x_label, y_label, x, y, parts, labels)


def visible(curves: Sequence[Curve]) -> tuple[float, float]:
    """The lowest and the highest value that is shown of curves and their bands. A band of few seeds may be far wider
    than the curves: what matters is where the curves are.
    """
    ys = [value for curve in curves for value in (*curve.mean, *(curve.low or ()), *(curve.high or ()))]
    means = [value for curve in curves for value in curve.mean]
    spread = max(means) - min(means) or abs(max(means)) or 1.0
    return max(min(ys), min(means) - spread / 2), min(max(ys), max(means) + spread / 2)


def dash_of(number: int) -> str:
    """How the line of a curve is dashed, so that those of one colour can be told apart; "" where it is not."""
    return DASHES[number // len(COLOURS) % len(DASHES)]


def point_chart(title: str, x_label: str, y_label: str, points: Sequence[Point]) -> str:
    """Points with error bars."""
    if not points:
        return _empty(title, "No run that has finished has both numbers.")
    ys = [value for point in points for value in (point.y, *(point.interval or ()))]
    x, y = _scales(min(0.0, *(point.x for point in points)), max(point.x for point in points), min(ys), max(ys))
    parts = []
    for number, point in enumerate(points):
        colour = number % len(COLOURS)
        if point.interval is not None:
            low, high = point.interval
            parts.append(
                f'<path class="bar c{colour}" d="M{x(point.x):.1f} {y(low):.1f}V{y(high):.1f}"><title>'
                f"{escaped(point.label)}</title></path>"
            )
        parts.append(f'<circle class="c{colour}" cx="{x(point.x):.1f}" cy="{y(point.y):.1f}" r="5"/>')
    return _svg(title, x_label, y_label, x, y, parts, [point.label for point in points])


def series_chart(
    title: str, x_label: str, y_label: str, series: Sequence[Series], *, log_x: bool = False, log_y: bool = False
) -> str:
    """Series of points; on a logarithmic axis those that are not positive are left out."""
    shown = [
        attrs.evolve(
            each, points=tuple((x, y) for x, y in each.points if (x > 0 or not log_x) and (y > 0 or not log_y))
        )
        for each in series
    ]
    xs, ys = ([point[axis] for each in shown for point in each.points] for axis in (0, 1))
    if not xs:
        return _empty(title, "There is nothing to draw: no number is above zero.")
    x = _axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, log_x)
    y = _axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP, log_y)
    parts = []
    for number, each in enumerate(shown):
        colour = number % len(COLOURS)
        if each.line and each.points:
            parts.append(f'<path class="line c{colour}" d="{_path(each.points, x, y)}" style="fill:none"/>')
        if not each.line or len(each.points) == 1:
            parts += [f'<circle class="c{colour}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="4"/>' for a, b in each.points]
    dots = frozenset(number for number, each in enumerate(shown) if not each.line)
    return _svg(title, x_label, y_label, x, y, parts, [each.label for each in shown], dots)


def _axis(low: float, high: float, start: float, end: float, logarithmic: bool) -> _Scale:
    """A scale with some room around what it shows."""
    if logarithmic:
        room = (high / low) ** 0.05 if high > low else 2.0
        return _Scale(low / room, high * room, start, end, True)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return _Scale(low - room, high + room, start, end)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high], both above zero: powers of ten, and where these are few 2 and 5 times them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [10.0**power for power in powers if low <= 10.0**power <= high]
    if len(found) < 4:
        found = [n * 10.0**power for power in powers for n in (1, 2, 5) if low <= n * 10.0**power <= high]
    return found


def _scales(x_low: float, x_high: float, y_low: float, y_high: float) -> tuple[_Scale, _Scale]:
    def widened(low: float, high: float, share: float) -> tuple[float, float]:
        room = (high - low) * share or abs(high) * 0.1 or 1.0
        return low - (room if share or low == high else 0.0), high + room

    x_low, x_high = widened(x_low, x_high, 0.0) if x_low == x_high else (x_low, x_high)
    y_low, y_high = widened(y_low, y_high, 0.05)
    return _Scale(x_low, x_high, LEFT, WIDTH - RIGHT), _Scale(y_low, y_high, HEIGHT - BOTTOM, TOP)


def _path(points: Sequence[tuple[float, float]], x: _Scale, y: _Scale) -> str:
    return "M" + "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in points)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers in [low, high], about `count` of them."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def short(value: float) -> str:
    """A tick's label: 1.5M, 200k, 0.25."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{round(value, 10):g}"


def _svg(
    title: str, x_label: str, y_label: str, x: _Scale, y: _Scale, parts: Sequence[str], labels: Sequence[str],
    dots: frozenset[int] = frozenset(),
) -> str:  # fmt: skip
    """The whole picture; the labels numbered in `dots` have a dot in the legend, the others a line."""
    axes = []
    for value in y.ticks():
        axes.append(
            f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>'
            f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{short(value)}</text>'
        )
    for value in x.ticks():
        axes.append(f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{short(value)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    axes.append(
        f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escaped(x_label)}</text>'
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{escaped(y_label)}</text>'
    )
    columns = 2 if all(len(label) <= BESIDE for label in labels) else 1
    legend, rows = [], math.ceil(len(labels) / columns)
    for number, label in enumerate(labels):
        left, top = LEFT + number % columns * (WIDTH - LEFT) // 2, HEIGHT + 14 + number // columns * 20
        dash = dash_of(number)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        cut = label if len(label) <= BENEATH else f"{label[: BENEATH - 1]}…"
        colour = f"c{number % len(COLOURS)}"
        mark = f'<path class="line {colour}"{dashed} d="M{left} {top - 4}h24" stroke-width="3"/>'
        if number in dots:
            mark = f'<circle class="{colour}" cx="{left + 12}" cy="{top - 4}" r="4"/>'
        legend.append(f'{mark}<text x="{left + 32}" y="{top}">{escaped(cut)}</text>')
    height = HEIGHT + 8 + rows * 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escaped(title)}"><title>{escaped(title)}</title><style>{STYLE}</style>'
        f"{''.join(axes)}{''.join(parts)}{''.join(legend)}</svg>"
    )


def _empty(title: str, reason: str = "No run has reported a return yet.") -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 60" role="img" aria-label="{escaped(title)}">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style>"
        f'<text x="20" y="34">{escaped(reason)}</text></svg>'
    )

"""Charts as inline SVG: lines, points and bars on two axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["Chart"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 12, 44


class Chart:
    """An empty chart of numbers; what is drawn later lies on top.

    Args:
        x, y: range of the axes; that of y is widened to round numbers.
        labels: of the axes.
        names: of as many places 0.5, 1.5, ... on the x axis, in place of numbers.
    """

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], labels: tuple[str, str], *, names: Sequence[str] = (), width: int = 460
    ) -> None:
        self.width, self.height = width, 300
        step = _round_step((y[1] - y[0]) / 5)
        self.x_range, self.y_range = x, (math.floor(y[0] / step + 1e-9) * step, math.ceil(y[1] / step - 1e-9) * step)
        self.shapes: list[str] = []
        bottom, right = self.height - _BOTTOM, width - _RIGHT
        for k in range(round((self.y_range[1] - self.y_range[0]) / step) + 1):
            value = self.y_range[0] + k * step
            self.shapes.append(f'<path class="grid" d="M{_LEFT} {self._y(value):.1f}H{right}"/>')
            self._text(_LEFT - 6, self._y(value) + 4, f"{value:.6g}" if abs(value) > 1e-9 * step else "0", "end")
        for k, name in enumerate(names):
            self._text(self._x(k + 0.5), bottom + 15, name)
        step = _round_step((x[1] - x[0]) / 5)
        for k in range(0 if names else math.ceil(x[0] / step - 1e-9), 0 if names else math.floor(x[1] / step + 1e-9) + 1):
            self._text(self._x(k * step), bottom + 15, f"{k * step:.6g}")
        self._text((_LEFT + right) / 2, self.height - 8, labels[0])
        middle = (bottom + _TOP) / 2
        self.shapes.append(f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(labels[1])}</text>')
        self.title = f"{labels[1]} by {labels[0]}"

    def line(self, xs: Sequence[float], ys: Sequence[float], kind: str = "line") -> Chart:
        """Kinds: ``line``, ``reference``."""
        points = "L".join(f"{self._x(x):.1f} {self._y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        self.shapes.append(f'<path class="{kind}" d="M{points}"/>')
        return self

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float]) -> Chart:
        there = [f"{self._x(x):.1f} {self._y(y):.1f}" for x, y in zip(xs, high, strict=True)]
        back = [f"{self._x(x):.1f} {self._y(y):.1f}" for x, y in zip(xs, low, strict=True)][::-1]
        self.shapes.append(f'<path class="band" d="M{"L".join(there + back)}Z"/>')
        return self

    def points(self, xs: Sequence[float], ys: Sequence[float], titles: Sequence[str]) -> Chart:
        for x, y, title in zip(xs, ys, titles, strict=True):
            self.shapes.append(
                f'<circle class="point" cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="4"><title>{escape(title)}</title></circle>'
            )
        return self

    def bars(self, edges: Sequence[tuple[float, float]], values: Sequence[float], titles: Sequence[str]) -> Chart:
        """A bar from 0 to each value, between its edges."""
        zero = self._y(max(0.0, self.y_range[0]))
        for (a, b), value, title in zip(edges, values, titles, strict=True):
            left, right, end = self._x(a) + 1, self._x(b) - 1, self._y(value)
            shape = f'x="{left:.1f}" y="{min(end, zero):.1f}" width="{max(right - left, 0.5):.1f}" height="{abs(end - zero):.1f}"'
            self.shapes.append(f'<rect class="bar" {shape}><title>{escape(title)}</title></rect>')
        return self

    def svg(self) -> str:
        box = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        return f'<svg {box} role="img" aria-label="{escape(self.title)}">{"".join(self.shapes)}</svg>'

    def _text(self, x: float, y: float, text: str, anchor: str = "middle") -> None:
        self.shapes.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def _x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (self.width - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5, 10, ..."""
    if not step > 0 or not math.isfinite(step):
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))

"""What a swap did: rows that the swapped objects update while they are used."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from .._backend import BACKENDS, available_backends, forced_backend

__all__ = ["Report", "Skipped", "SwapError", "Swapped"]


class SwapError(RuntimeError):
    """A replacement is worse than its error budget; the swap of that object is undone."""


@dataclass
class Swapped:
    """One swapped object or function."""

    path: str  # below the model, or the function's dotted name
    original: str  # class or function
    op: str
    device: str = "cpu"
    calls: int = 0  # served by ours, outside compiled code
    max_error: float | None = None  # against fp64 of the original, over all outputs; None: not verified yet
    max_gradient_error: float | None = None
    verified: list[str] = field(default_factory=list)  # methods
    fallbacks: dict[str, int] = field(default_factory=dict)  # reason -> calls that the original served
    notes: list[str] = field(default_factory=list)

    @property
    def backend(self) -> str:
        """What serves the op on the device of the last check: forced by ``use_backend``, or the best that can run."""
        reasons: dict[str, list[str]] = {}
        try:
            reasons = available_backends(self.op)
        except ValueError:  # a rule of the user's, for no op of ours
            return "-"
        order = ("cpu",) if self.device == "cpu" else ("cuda", "triton")
        return forced_backend() or next((name for name in order if not reasons[name]), BACKENDS[0])

    def to_dict(self) -> dict[str, Any]:
        names = "path", "original", "op", "backend", "calls", "max_error", "max_gradient_error", "verified", "fallbacks", "notes"
        return {name: getattr(self, name) for name in names}


@dataclass
class Skipped:
    """One object or function that a rule knows, and why it was left alone."""

    path: str
    original: str
    reason: str


class Report:
    """What `swap_in` did. A context manager: leaving it undoes the swap.

    Attributes:
        swapped: a `Swapped` per object: path, original, op, backend, calls, max_error, max_gradient_error, verified, fallbacks, notes.
        skipped: a `Skipped` per object that a rule knows but that was left alone: path, original, reason.
        text: both as a table; also ``str(report)``.

    Example:
        >>> import ordkernels, torch
        >>> print(ordkernels.swap_in(torch.nn.Linear(2, 2)))
        nothing swapped
    """

    def __init__(self) -> None:
        self.swapped: list[Swapped] = []
        self.skipped: list[Skipped] = []
        self._undo: list[Callable[[], Any]] = []

    def undo(self) -> None:
        """Restore every object and function that this report swapped. A second call does nothing."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.undo()

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """``{"swapped": [...], "skipped": [...]}`` of plain values, for JSON."""
        return {"swapped": [row.to_dict() for row in self.swapped], "skipped": [dict(vars(row)) for row in self.skipped]}

    @property
    def text(self) -> str:
        rows = [_HEAD, *map(_cells, self.swapped)] if self.swapped else []
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))] if rows else []
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows] or ["nothing swapped"]
        for s in self.swapped:
            lines += [f"{s.path or '(model)'}: {n} calls served by the original: {reason}" for reason, n in s.fallbacks.items()]
            lines += [f"{s.path or '(model)'}: {note}" for note in s.notes]
            lines += [f"{s.path or '(model)'}: in use, not verified"] * bool(s.calls and not s.verified and not s.notes)
        return "\n".join(lines + [f"left alone: {s.path or '(model)'} ({s.original}): {s.reason}" for s in self.skipped])

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Report: {len(self.swapped)} swapped, {len(self.skipped)} left alone>"

    def _repr_html_(self) -> str:
        def row(cells: list[str], tag: str = "td") -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        swapped = "".join(map(row, map(_cells, self.swapped)))
        skipped = "".join(row([s.path or "(model)", s.original, s.reason]) for s in self.skipped)
        left = f"<table>{row(['path', 'original', 'left alone because'], 'th')}{skipped}</table>" if skipped else ""
        return f"<table>{row(_HEAD, 'th')}{swapped}</table>{left}"


_HEAD = ["path", "original", "op", "backend", "calls", "max error", "max gradient error"]


def _cells(row: Swapped) -> list[str]:
    errors = ["-" if e is None else f"{e:.2g}" for e in (row.max_error, row.max_gradient_error)]
    return [row.path or "(model)", row.original, row.op, row.backend, str(row.calls), *errors]

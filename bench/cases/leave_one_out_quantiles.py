"""Quantiles of each event's group without that event against one sort and ranks in NumPy."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from ordkernels.quantiles import leave_one_out_quantiles

from . import OURS, Case, Run, Scaling, Size
from ._grouped import LEVELS, Array, L, grouped, quantiles

EVENTS: dict[Size, tuple[int, int]] = {"tiny": (40, 7), "quick": (20_000, 400), "full": (200_000, 4_000)}  # events, groups


def cases(device: str, size: Size) -> Iterator[Case]:
    if device == "cpu":
        yield _leave_one_out(*EVENTS[size])


def _leave_one_out(N: int, G: int) -> Case:
    x, offsets = grouped(N, G)
    group = np.repeat(np.arange(G), np.diff(offsets))
    threads = torch.get_num_threads()

    def by_ranks() -> Array:
        """Sort once; without the event of rank r, sorted place i is place i + (i >= r)."""
        order = np.lexsort((x, group))
        ordered, begin, n = x[order], offsets[group], np.diff(offsets)[group]
        rank = np.empty(N, np.int64)
        rank[order] = np.arange(N)
        rank -= begin
        at = (n - 2)[:, None] * LEVELS
        low = np.clip(np.floor(at).astype(np.int64), 0, None)
        high = np.minimum(low + 1, np.maximum(n - 2, 0)[:, None])
        part = (at - low).astype(np.float32)
        a, b = (ordered[np.minimum(begin[:, None] + i + (i >= rank[:, None]), N - 1)] for i in (low, high))
        return np.where((n > 1)[:, None], a * (1 - part) + b * part, np.nan)

    return Case(
        "leave_one_out_quantiles", f"N={N} G={G} L={L}",
        {OURS: lambda: leave_one_out_quantiles(x, offsets, LEVELS, num_threads=threads), "numpy lexsort + ranks": by_ranks},
        lambda: (_leave_one_out_expected(x, offsets),), 1e-5, bytes=4 * N + 8 * G + 4 * N * L,
    )  # fmt: skip


def _leave_one_out_expected(x: Array, offsets: Array) -> Array:
    out = np.full((len(x), L), np.nan)
    for begin, end in pairwise(offsets):
        for i in range(begin, end):
            out[i] = quantiles(np.delete(x[begin:end], i - begin))
    return out


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    if device != "cpu":
        return
    top = {"tiny": 2, "quick": 5, "full": 6}[size]
    events = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def run(N: int) -> Run:
        x, offsets = grouped(N, max(1, N // 50))
        return lambda: leave_one_out_quantiles(x, offsets, LEVELS, num_threads=torch.get_num_threads())

    yield Scaling("leave_one_out_quantiles", "about 50 events a group", "N", events, run, float)

"""Quantiles of each event's history against a sorted list per group and pandas' expanding windows."""

import bisect
from collections.abc import Iterator

import numpy as np
import torch

from ordkernels.quantiles import history_quantiles

from . import OURS, Case, Run, Scaling, Size, optional
from ._grouped import LEVELS, Array, L, grouped, quantiles

EVENTS: dict[Size, tuple[int, int]] = {"tiny": (40, 7), "quick": (20_000, 2_000), "full": (228_000, 25_000)}  # events, groups


def cases(device: str, size: Size) -> Iterator[Case]:
    if device == "cpu":
        yield _history(*EVENTS[size])


def _history(N: int, G: int) -> Case:
    rng = np.random.default_rng(0)
    x, _ = grouped(N, G)
    share = rng.lognormal(0, 1, G)
    group, time = rng.choice(G, N, p=share / share.sum()), rng.permutation(N)  # times all differ: what pandas can do too
    missing: dict[str, str] = {}
    threads = torch.get_num_threads()

    def by_sorted_lists() -> Array:
        """A sorted list for each group, one insertion and one interpolation per event."""
        past: dict[int, list[float]] = {}
        out = np.full((N, L), np.nan, np.float32)
        for i in np.argsort(time, kind="stable"):
            mine = past.setdefault(int(group[i]), [])
            if mine:
                at = (len(mine) - 1) * LEVELS
                low = at.astype(np.int64)
                a = np.asarray(mine)
                out[i] = a[low] + (a[np.minimum(low + 1, len(mine) - 1)] - a[low]) * (at - low)
            bisect.insort(mine, float(x[i]))
        return out

    runs: dict[str, Run] = {
        OURS: lambda: history_quantiles(x, group, time, LEVELS, num_threads=threads),
        "sorted list per group": by_sorted_lists,
    }
    pandas = optional("pandas", missing, "pandas")
    if pandas is not None and N <= 20_000:
        order = np.lexsort((time, group))
        table = pandas.DataFrame({"g": group[order], "x": x[order]})

        def by_pandas() -> Array:
            windows = table.groupby("g")["x"].expanding()
            out = np.full((N, L), np.nan)
            for i, q in enumerate(LEVELS):
                seen = windows.quantile(q).to_numpy()  # up to and with the event itself
                out[order[1:], i] = np.where(table["g"].to_numpy()[1:] == table["g"].to_numpy()[:-1], seen[:-1], np.nan)
            return out

        runs["pandas expanding"] = by_pandas
    return Case(
        "history_quantiles", f"N={N} G={G} L={L}", runs, lambda: (_history_expected(x, group, time),), 1e-5,
        bytes=N * (4 + 8 + 8 + 4 * L), missing=missing,
    )  # fmt: skip


def _history_expected(x: Array, group: Array, time: Array) -> Array:
    out = np.full((len(x), L), np.nan)
    order = np.lexsort((time, group))
    ends = np.flatnonzero(np.diff(group[order])) + 1
    for rows in np.split(order, ends):
        for j in range(1, len(rows)):
            out[rows[j]] = quantiles(x[rows[:j]])
    return out


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    if device != "cpu":
        return
    top = {"tiny": 2, "quick": 4, "full": 6}[size]
    events = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def history(N: int) -> Run:
        rng = np.random.default_rng(0)
        x, group, time = rng.lognormal(2, 1, N).astype(np.float32), rng.integers(0, max(1, N // 50), N), rng.permutation(N)
        return lambda: history_quantiles(x, group, time, LEVELS, num_threads=torch.get_num_threads())

    yield Scaling("history_quantiles", "about 50 events a group", "N", events, history, float)

"""Quantiles of ragged groups against pandas, polars, sorting in NumPy and a padded tensor; the Wasserstein loss against torch."""

import bisect
import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ordkernels import ops
from ordkernels.quantiles import history_quantiles, leave_one_out_quantiles, segment_quantiles
from ordkernels.reference import quantiles as reference

from . import OURS, Case, Run, Scaling, Size, Target, compiled, optional, randn, with_backward, without_grad

Array = np.ndarray
L = 20
LEVELS = (np.arange(L) + 0.5) / L
EVENTS: dict[Size, tuple[tuple[int, int], ...]] = {  # events, groups
    "tiny": ((40, 7),),
    "quick": ((20_000, 400), (1_000_000, 20_000)),
    "full": ((20_000, 400), (1_000_000, 20_000), (10_000_000, 200_000)),
}


def grouped(N: int, G: int, seed: int = 0) -> tuple[Array, Array]:
    """values [N] fp32 and offsets [G+1]; group sizes are skewed (log-normal shares), and every group has an event."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0, 1, G)
    sizes = 1 + rng.multinomial(N - G, share / share.sum())
    return rng.lognormal(2, 1, N).astype(np.float32), np.concatenate(([0], np.cumsum(sizes)))


def cases(device: str, size: Size) -> Iterator[Case]:
    if device == "cpu":
        for N, G in EVENTS[size]:
            yield _segment(N, G)
        yield _leave_one_out(*{"tiny": (40, 7), "quick": (20_000, 400), "full": (200_000, 4_000)}[size])
        yield _history(*{"tiny": (40, 7), "quick": (20_000, 2_000), "full": (228_000, 25_000)}[size])
    rows = {"tiny": (5,), "quick": (65_536,), "full": (1024, 65_536)}[size]
    for B in (1024, 1 << 20) if device == "cuda" and size == "full" else rows:
        yield _wasserstein(B, device, backward=False)
        yield _wasserstein(B, device, backward=True)


# ----------------------------------------------------------------------------------------------- segments


def _interpolate(ordered: Array, offsets: Array) -> Array:
    """Values sorted within groups -> [G, L]."""
    n = np.diff(offsets)
    at = offsets[:-1, None] + (n[:, None] - 1) * LEVELS
    low = np.floor(at).astype(np.int64)
    part = (at - low).astype(ordered.dtype)
    return ordered[low] * (1 - part) + ordered[np.minimum(low + 1, offsets[1:, None] - 1)] * part


def by_lexsort(x: Array, group: Array, offsets: Array) -> Array:
    return _interpolate(x[np.lexsort((x, group))], offsets)


def by_fused_key(x: Array, group: Array, offsets: Array) -> Array:
    """One sort of (group, bits of the value) as an integer; values are not negative."""
    key = (group.astype(np.uint64) << np.uint64(32)) | x.view(np.uint32)
    key.sort()
    return _interpolate((key & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32), offsets)


def _segment(N: int, G: int) -> Case:
    x, offsets = grouped(N, G)
    group, missing = np.repeat(np.arange(G), np.diff(offsets)), {}  # type: ignore[var-annotated]
    threads = torch.get_num_threads()
    runs: dict[str, Run] = {
        OURS: lambda: segment_quantiles(x, offsets, LEVELS, num_threads=threads),
        "numpy fused-key sort": lambda: by_fused_key(x, group, offsets),
        "numpy lexsort": lambda: by_lexsort(x, group, offsets),
    }
    outputs: dict[str, Any] = {}
    width = int(np.diff(offsets).max())
    if G * width <= 2**27:
        padded = np.full((G, width), np.nan, np.float32)
        padded[group, np.arange(N) - offsets[group]] = x
        tensor, levels = torch.from_numpy(padded), torch.from_numpy(LEVELS).float()
        runs["torch.nanquantile, padded"] = lambda: torch.nanquantile(tensor, levels, dim=1).T
    os.environ.setdefault("POLARS_MAX_THREADS", str(threads))
    polars = optional("polars", missing, "polars")
    if polars is not None:
        frame = polars.DataFrame({"g": group, "x": x})
        each = [polars.col("x").quantile(float(q), "linear").alias(f"q{i}") for i, q in enumerate(LEVELS)]
        runs["polars"] = lambda: frame.group_by("g", maintain_order=True).agg(each)
        outputs["polars"] = lambda out: (out.drop("g").to_numpy(),)
    pandas = optional("pandas", missing, "pandas")
    if pandas is not None and N <= 1_000_000:
        table = pandas.DataFrame({"g": group, "x": x})
        runs["pandas"] = lambda: table.groupby("g")["x"].quantile(LEVELS)
        outputs["pandas"] = lambda out: (out.to_numpy().reshape(G, L),)
    factor = 4 if N >= 10_000_000 else 3
    return Case(
        "quantiles", f"segment_quantiles N={N} G={G} L={L}", runs, lambda: (reference.segment_quantiles(x, offsets, LEVELS),), 1e-5,
        bytes=4 * N + 8 * G + 4 * G * L, missing=missing, outputs=outputs,
        targets=[Target(f"at least {factor}x the best rival", "best rival", factor)] if N >= 1_000_000 else [],
    )  # fmt: skip


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
        "quantiles", f"leave_one_out_quantiles N={N} G={G} L={L}",
        {OURS: lambda: leave_one_out_quantiles(x, offsets, LEVELS, num_threads=threads), "numpy lexsort + ranks": by_ranks},
        lambda: (_leave_one_out_truth(x, offsets),), 1e-5, bytes=4 * N + 8 * G + 4 * N * L,
    )  # fmt: skip


def _leave_one_out_truth(x: Array, offsets: Array) -> Array:
    out = np.full((len(x), L), np.nan)
    for begin, end in pairwise(offsets):
        for i in range(begin, end):
            out[i] = _quantiles(np.delete(x[begin:end], i - begin))
    return out


def _quantiles(x: Array) -> Array:
    """numpy.quantile, without what it spends on checks; NaN for no values."""
    if not len(x):
        return np.full(L, np.nan)
    ordered, at = np.sort(x.astype(np.float64)), (len(x) - 1) * LEVELS
    low = at.astype(np.int64)
    a, b = ordered[low], ordered[np.minimum(low + 1, len(x) - 1)]
    return a + (b - a) * (at - low)


# ------------------------------------------------------------------------------------------------ history


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
        "quantiles", f"history_quantiles N={N} G={G} L={L}", runs, lambda: (_history_truth(x, group, time),), 1e-5,
        bytes=N * (4 + 8 + 8 + 4 * L), missing=missing,
    )  # fmt: skip


def _history_truth(x: Array, group: Array, time: Array) -> Array:
    out = np.full((len(x), L), np.nan)
    order = np.lexsort((time, group))
    ends = np.flatnonzero(np.diff(group[order])) + 1
    for rows in np.split(order, ends):
        for j in range(1, len(rows)):
            out[rows[j]] = _quantiles(x[rows[:j]])
    return out


# -------------------------------------------------------------------------------------------- Wasserstein


def eager_loss(samples: Tensor, q_user: Tensor, q_item: Tensor) -> Tensor:
    s = samples.sort(dim=1).values
    return (0.8 * (s - q_user).abs() + 0.2 * (s - q_item).abs()).mean(1)


def our_loss(samples: Tensor, q_user: Tensor, q_item: Tensor) -> Tensor:
    return ops.wasserstein_quantile_loss(samples, q_user, q_item, lam=0.8)


def _wasserstein(B: int, device: str, backward: bool) -> Case:
    """FlowTime trains the samples alone; the quantiles are data."""
    samples = randn(B, L, device=device, seed=1)
    q_user, q_item = (randn(B, L, device=device, seed=s).sort(dim=1).values for s in (2, 3))
    grads = [randn(B, device=device, seed=4)]

    def wrap(f: Any) -> Run:
        if not backward:
            return without_grad(f, [samples, q_user, q_item])
        return with_backward(lambda s: f(s, q_user, q_item), [samples], grads)

    def truth() -> tuple[Any, ...]:
        wide = [t.double() for t in (samples, q_user, q_item)]
        if not backward:
            return (eager_loss(*wide),)
        return with_backward(lambda s: eager_loss(s, *wide[1:]), wide[:1], [grads[0].double()])()

    return Case(
        "quantiles", f"wasserstein_quantile_loss forward{' + backward' if backward else ''} B={B} L={L}",
        {OURS: wrap(our_loss), "eager": wrap(eager_loss), "compile": wrap(compiled(eager_loss))}, truth, 1e-4,
        bytes=4 * B * (3 * L + 1) + (4 * B * (4 * L + 1) if backward else 0), device=device,
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    if device != "cpu":
        return
    top = {"tiny": 2, "quick": 5, "full": 7}[size]
    events = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def segment(N: int) -> Run:
        x, offsets = grouped(N, max(1, N // 50))
        return lambda: segment_quantiles(x, offsets, LEVELS, num_threads=torch.get_num_threads())

    def history(N: int) -> Run:
        rng = np.random.default_rng(0)
        x, group, time = rng.lognormal(2, 1, N).astype(np.float32), rng.integers(0, max(1, N // 50), N), rng.permutation(N)
        return lambda: history_quantiles(x, group, time, LEVELS, num_threads=torch.get_num_threads())

    yield Scaling("quantiles", "segment_quantiles, about 50 events a group", "N", events, segment, float)
    yield Scaling("quantiles", "history_quantiles, about 50 events a group", "N", events[: max(1, len(events) - 1)], history, float)

"""Quantiles of ragged groups against pandas, polars, sorting in NumPy and a padded tensor."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ordkernels.quantiles import segment_quantiles
from ordkernels.reference import segment_quantiles as reference

from . import OURS, Case, Run, Scaling, Size, Target, optional
from ._grouped import LEVELS, Array, L, grouped

EVENTS: dict[Size, tuple[tuple[int, int], ...]] = {  # events, groups
    "tiny": ((40, 7),),
    "quick": ((20_000, 400), (1_000_000, 20_000)),
    "full": ((20_000, 400), (1_000_000, 20_000), (10_000_000, 200_000)),
}


def cases(device: str, size: Size) -> Iterator[Case]:
    if device == "cpu":
        for N, G in EVENTS[size]:
            yield _segment(N, G)


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
        "segment_quantiles", f"N={N} G={G} L={L}", runs, lambda: (reference.segment_quantiles(x, offsets, LEVELS),), 1e-5,
        bytes=4 * N + 8 * G + 4 * G * L, missing=missing, outputs=outputs,
        targets=[Target(f"at least {factor}x the best baseline", "best baseline", factor)] if N >= 1_000_000 else [],
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    if device != "cpu":
        return
    top = {"tiny": 2, "quick": 5, "full": 7}[size]
    events = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def segment(N: int) -> Run:
        x, offsets = grouped(N, max(1, N // 50))
        return lambda: segment_quantiles(x, offsets, LEVELS, num_threads=torch.get_num_threads())

    yield Scaling("segment_quantiles", "about 50 events a group", "N", events, segment, float)

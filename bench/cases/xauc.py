"""XAUC of predictions against scipy, torchmetrics and two sorts in NumPy. The expected value is the reference's."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ordkernels import ops
from ordkernels.reference import xauc as reference

from . import OURS, Case, Run, Scaling, Size, Target, optional
from ._watched import watched

PAIRS: dict[Size, tuple[int, ...]] = {"tiny": (60,), "quick": (1_000_000,), "full": (1_000_000, 10_000_000)}


def cases(device: str, size: Size) -> Iterator[Case]:
    if device == "cpu":
        for N in PAIRS[size]:
            yield _xauc(N)


def _xauc(N: int) -> Case:
    y, p = watched(N)
    missing: dict[str, str] = {}
    threads = torch.get_num_threads()
    runs: dict[str, Run] = {OURS: lambda: ops.xauc(y, p, num_threads=threads).value}
    stats = optional("scipy.stats", missing, "scipy kendalltau")
    if stats is not None:  # ties are too few to change a digit that is checked
        runs["scipy kendalltau"] = lambda: (stats.kendalltau(y, p).statistic + 1) / 2
    runs["numpy argsort x2"] = lambda: (np.argsort(y), np.argsort(p))
    if N <= 2000:
        metrics = optional("torchmetrics.functional", missing, "torchmetrics kendall")
        if metrics is not None:
            a, b = torch.from_numpy(y), torch.from_numpy(p)
            runs["torchmetrics kendall"] = lambda: (metrics.kendall_rank_corrcoef(b, a) + 1) / 2
    else:
        missing["torchmetrics kendall"] = "quadratic: a minute at N=40000"

    def expected() -> tuple[Any, ...]:
        concordant, tied, pairs, _ = reference.xauc_counts(y, p, None, None)
        return ((concordant + tied / 2) / pairs,)

    factor = 7 if N >= 10_000_000 else 5
    return Case(
        "xauc", f"N={N}", runs, expected, 1e-4, bytes=8 * N, missing=missing, context=("numpy argsort x2",),
        outputs={"numpy argsort x2": lambda _: expected()},  # no score of its own: what any sort-based baseline needs at least
        targets=[Target(f"at least {factor}x scipy", "scipy kendalltau", factor)] if N >= 1_000_000 and stats is not None else [],
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    if device != "cpu":
        return
    top = {"tiny": 2, "quick": 5, "full": 7}[size]
    rows = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def pairs(N: int) -> Run:
        y, p = watched(N)
        return lambda: ops.xauc(y, p, num_threads=torch.get_num_threads())

    yield Scaling("xauc", "log-normal labels", "N", rows, pairs, float)

"""The divergence of histograms by group against NumPy and scipy. The expected value is the reference's."""

import math
from collections.abc import Iterator

import numpy as np
import torch

from ordkernels import ops
from ordkernels.reference import histogram_jsd as reference

from . import OURS, Case, Run, Scaling, Size, Target, optional
from ._watched import Array, watched

HISTOGRAMS: dict[Size, tuple[tuple[int, int], ...]] = {  # rows, groups
    "tiny": ((200, 7),),
    "quick": ((1_000_000, 20_000),),
    "full": ((1_000_000, 20_000), (10_000_000, 200_000)),
}
BINS = 50


def cases(device: str, size: Size) -> Iterator[Case]:
    if device == "cpu":
        for N, G in HISTOGRAMS[size]:
            yield _jsd(N, G)


def _jsd(N: int, G: int) -> Case:
    rng = np.random.default_rng(0)
    y, p, group = rng.random(N, dtype=np.float32), rng.random(N, dtype=np.float32) ** 2, rng.integers(0, G, N)
    edges = np.linspace(0, 1, BINS + 1)
    inner = edges[1:-1].astype(np.float32)
    missing: dict[str, str] = {}
    threads = torch.get_num_threads()

    def counts(bins: list[Array]) -> list[Array]:
        found = [np.bincount(group * BINS + b, minlength=G * BINS).reshape(G, BINS) for b in bins]
        seen = found[0].any(1)
        return [c[seen] for c in found]

    def by_search() -> list[Array]:
        return counts([np.searchsorted(inner, x, side="right") for x in (y, p)])

    def by_scale() -> list[Array]:  # what equal bins allow
        return counts([np.minimum((x * np.float32(BINS)).astype(np.int64), BINS - 1) for x in (y, p)])

    def numpy_divergence(a: Array, b: Array) -> float:
        """sum of a log a + b log b - (a + b) log(a + b), the logarithms of whole numbers from a table."""
        table = np.arange(2 * max(a.max(), b.max()) + 1, dtype=np.float64)
        table[1:] *= np.log(table[1:])
        return math.log(2) + float(((table[a] + table[b] - table[a + b]).sum(1) / (2 * a.sum(1))).mean())

    runs: dict[str, Run] = {
        OURS: lambda: ops.histogram_jsd(y, p, group, edges=edges, num_threads=threads),
        "numpy searchsorted": lambda: numpy_divergence(*by_search()),
        "numpy equal bins": lambda: numpy_divergence(*by_scale()),
    }
    distance = optional("scipy.spatial.distance", missing, "scipy jensenshannon")
    if distance is not None:

        def by_scipy() -> float:
            a, b = by_scale()
            return float(np.square(distance.jensenshannon(a, b, axis=1)).mean())

        runs["scipy jensenshannon"] = by_scipy
    return Case(
        "histogram_jsd", f"N={N} G={G} bins={BINS}", runs, lambda: (reference.histogram_jsd(y, p, group, edges, math.e),), 1e-3,
        bytes=16 * N, missing=missing, targets=[Target("at least 4x the best baseline", "best baseline", 4)] if N >= 10_000_000 else [],
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    if device != "cpu":
        return
    top = {"tiny": 2, "quick": 5, "full": 7}[size]
    rows = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def histograms(N: int) -> Run:
        (y, p), group = watched(N), np.random.default_rng(1).integers(0, max(1, N // 50), N)
        edges = np.quantile(y, np.linspace(0, 1, BINS + 1))
        return lambda: ops.histogram_jsd(y, p, group, edges=edges, num_threads=torch.get_num_threads())

    yield Scaling("histogram_jsd", "about 50 rows a group", "N", rows, histograms, float)

"""Scores of predictions against scipy, torchmetrics and NumPy; the CRPS loss against torch. The truth is the reference's."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ordkernels import ops
from ordkernels.reference import scores as reference

from . import OURS, Case, Run, Scaling, Size, Target, compiled, optional, randn, with_backward, without_grad

Array = np.ndarray
PAIRS: dict[Size, tuple[int, ...]] = {"tiny": (60,), "quick": (1_000_000,), "full": (1_000_000, 10_000_000)}
HISTOGRAMS: dict[Size, tuple[tuple[int, int], ...]] = {  # rows, groups
    "tiny": ((200, 7),),
    "quick": ((1_000_000, 20_000),),
    "full": ((1_000_000, 20_000), (10_000_000, 200_000)),
}
BINS = 50
L = 20


def watched(N: int, seed: int = 0) -> tuple[Array, Array]:
    """Labels and predictions, fp32, log-normal and related, with hardly a tie."""
    rng = np.random.default_rng(seed)
    y = rng.lognormal(2, 1, N)
    return y.astype(np.float32), (y * rng.lognormal(0, 0.7, N)).astype(np.float32)


def cases(device: str, size: Size) -> Iterator[Case]:
    if device == "cpu":
        for N in PAIRS[size]:
            yield _xauc(N)
        for N, G in HISTOGRAMS[size]:
            yield _jsd(N, G)
    rows = {"tiny": (5,), "quick": (65_536,), "full": (1024, 65_536)}[size]
    for B in (1024, 1 << 20) if device == "cuda" and size == "full" else rows:
        yield _crps(B, device, backward=False)
        yield _crps(B, device, backward=True)


def _threads() -> int:
    return torch.get_num_threads()


# --------------------------------------------------------------------------------------------------------- pairs


def _xauc(N: int) -> Case:
    y, p = watched(N)
    missing: dict[str, str] = {}
    threads = _threads()
    runs: dict[str, Run] = {OURS: lambda: ops.xauc(y, p, num_threads=threads).value}
    stats = optional("scipy.stats", missing, "scipy kendalltau")
    if stats is not None:  # rows tied in either are few enough to change no digit that the gate looks at
        runs["scipy kendalltau"] = lambda: (stats.kendalltau(y, p).statistic + 1) / 2
    runs["numpy argsort x2"] = lambda: (np.argsort(y), np.argsort(p))
    if N <= 2000:
        metrics = optional("torchmetrics.functional", missing, "torchmetrics kendall")
        if metrics is not None:
            a, b = torch.from_numpy(y), torch.from_numpy(p)
            runs["torchmetrics kendall"] = lambda: (metrics.kendall_rank_corrcoef(b, a) + 1) / 2
    else:
        missing["torchmetrics kendall"] = "quadratic: a minute at N=40000"

    def truth() -> tuple[Any, ...]:
        discordant, tied, pairs = reference.xauc_counts(y, p, None, None)
        return ((pairs - discordant - tied / 2) / pairs,)

    factor = 7 if N >= 10_000_000 else 5
    return Case(
        "scores", f"xauc N={N}", runs, truth, 1e-4, bytes=8 * N, missing=missing, yardsticks=("numpy argsort x2",),
        outputs={"numpy argsort x2": lambda _: truth()},  # no score of its own: what any sort-based rival needs at least
        targets=[Target(f"at least {factor}x scipy", "scipy kendalltau", factor)] if N >= 1_000_000 and stats is not None else [],
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- histograms


def _jsd(N: int, G: int) -> Case:
    rng = np.random.default_rng(0)
    y, p, group = rng.random(N, dtype=np.float32), rng.random(N, dtype=np.float32) ** 2, rng.integers(0, G, N)
    edges = np.linspace(0, 1, BINS + 1)
    inner = edges[1:-1].astype(np.float32)
    missing: dict[str, str] = {}
    threads = _threads()

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
        "scores", f"histogram_jsd N={N} G={G} bins={BINS}", runs, lambda: (reference.histogram_jsd(y, p, group, edges, math.e),), 1e-3,
        bytes=16 * N, missing=missing, targets=[Target("at least 4x the best rival", "best rival", 4)] if N >= 10_000_000 else [],
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- CRPS


def eager_crps(samples: Tensor, y: Tensor) -> Tensor:
    n = samples.shape[1]
    d = (samples - y[:, None]).sort(dim=1).values
    lift = (2 * torch.arange(n, device=d.device, dtype=d.dtype) - (n - 1)) / (n * (n - 1))
    return d.abs().mean(1) - (d * lift).sum(1)


def pairwise_crps(samples: Tensor, y: Tensor) -> Tensor:
    """All L^2 differences, no sort."""
    n = samples.shape[1]
    spread = (samples[:, :, None] - samples[:, None, :]).abs().sum((1, 2))
    return (samples - y[:, None]).abs().mean(1) - spread / (2 * n * (n - 1))


def our_crps(samples: Tensor, y: Tensor) -> Tensor:
    return ops.crps(samples, y, fair=True)


def _crps(B: int, device: str, backward: bool) -> Case:
    samples, y, grads = randn(B, L, device=device, seed=1), randn(B, device=device, seed=2), [randn(B, device=device, seed=3)]

    def wrap(f: Any, wide: bool = False) -> Run:
        s, t, g = ([x.double() for x in (samples, y, grads[0])]) if wide else (samples, y, grads[0])
        return with_backward(lambda s: f(s, t), [s], [g]) if backward else without_grad(f, [s, t])

    def truth() -> tuple[Any, ...]:
        out = wrap(eager_crps, wide=True)()
        return out if isinstance(out, tuple) else (out,)

    return Case(
        "scores", f"crps fair forward{' + backward' if backward else ''} B={B} L={L}",
        {
            OURS: wrap(our_crps), "eager": wrap(eager_crps), "compile": wrap(compiled(eager_crps)),
            "compile, all pairs": wrap(compiled(pairwise_crps)),
        },
        truth, 1e-4, bytes=4 * B * (L + 2) + (4 * B * (2 * L + 1) if backward else 0), device=device,
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    if device != "cpu":
        return
    top = {"tiny": 2, "quick": 5, "full": 7}[size]
    rows = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def pairs(N: int) -> Run:
        y, p = watched(N)
        return lambda: ops.xauc(y, p, num_threads=_threads())

    def histograms(N: int) -> Run:
        (y, p), group = watched(N), np.random.default_rng(1).integers(0, max(1, N // 50), N)
        edges = np.quantile(y, np.linspace(0, 1, BINS + 1))
        return lambda: ops.histogram_jsd(y, p, group, edges=edges, num_threads=_threads())

    yield Scaling("scores", "xauc", "N", rows, pairs, float)
    yield Scaling("scores", "histogram_jsd, about 50 rows a group", "N", rows, histograms, float)

"""One call of each data-side function on rows that are drawn anew: for tests of threads and of memory. Without torch."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ordkernels import quantiles, scores
from ordkernels.scores import grid, streaming
from ordkernels.vocabulary import ValueVocabulary

LEVELS = (0.5, 0.1, 0.99)
Call = Callable[[int], Any]  # the number of threads -> the result


def host_calls(n: int, seed: int, dtype: Any = np.float64) -> Iterator[tuple[str, Call]]:
    """(name, call) of every function on n rows, at least 2: numbers with ties, ragged groups, weights; threads share the arrays."""
    rng = np.random.default_rng(seed)
    y, p = (np.round(rng.gamma(2.0, 20.0, n), digits).astype(dtype) for digits in (0, 2))
    group, time, weight = rng.integers(0, n // 20 + 1, n), rng.integers(0, n, n), rng.random(n)
    binary = np.arange(n) % 2
    offsets = np.unique(np.concatenate(([0, n], rng.integers(0, n + 1, n // 50))))
    edges = np.linspace(0, 200, 21)
    yield "segment_quantiles", lambda t: quantiles.segment_quantiles(y, offsets, LEVELS, num_threads=t)
    yield "leave_one_out_quantiles", lambda t: quantiles.leave_one_out_quantiles(y, offsets, LEVELS, num_threads=t)
    yield "out_of_fold_quantiles", lambda t: quantiles.out_of_fold_quantiles(y, offsets, LEVELS, num_threads=t)
    yield "history_quantiles", lambda t: quantiles.history_quantiles(y, group, time, LEVELS, num_threads=t)
    for ties in ("half", "strict", "reference"):
        yield f"xauc, {ties}", lambda t, ties=ties: scores.xauc(y, p, ties=ties, num_threads=t)
    yield "xauc, weight", lambda t: scores.xauc(y, p, weight=weight, num_threads=t)
    yield "xauc, group", lambda t: scores.xauc(y, p, group=group, weight=weight, num_threads=t)
    yield "auc", lambda t: scores.auc(binary, p, num_threads=t)
    yield "kendall_tau", lambda t: scores.kendall_tau(y, p, num_threads=t)
    yield "normalized_gini", lambda t: scores.normalized_gini(y, p)
    yield "decile_table", lambda t: scores.decile_table(y, p)
    yield "srcc", lambda t: scores.srcc(y, p, num_threads=t)
    yield "lcc", lambda t: scores.lcc(y, p, num_threads=t)
    yield "mae", lambda t: scores.mae(y, p, num_threads=t)
    yield "rmse", lambda t: scores.rmse(y, p, num_threads=t)
    yield "cumulative_score", lambda t: scores.cumulative_score(y, p, 5, num_threads=t)
    yield "coverage", lambda t: scores.coverage(p - 5, p + 5, y, num_threads=t)
    yield "mae_by_interval", lambda t: scores.mae_by_interval(y, p, edges)
    yield "histogram_jsd", lambda t: scores.histogram_jsd(y, p, group, edges=edges, num_threads=t)
    yield "streaming", lambda t: _streamed(y, p, group, edges, t)
    yield "vocabulary", lambda t: _vocabulary(y, t)
    yield "vocabulary, unit", lambda t: _vocabulary(p, t, unit=0.01)


def _streamed(y: Any, p: Any, group: Any, edges: Any, threads: int) -> list[Any]:
    """Each accumulator on two halves, merged."""
    makers: list[tuple[Callable[[], Any], Callable[[slice], tuple[Any, ...]]]] = [
        (lambda: streaming.Errors(thetas=(1, 5)), lambda s: (y[s], p[s])),
        (streaming.Coverage, lambda s: (p[s] - 5, p[s] + 5, y[s])),
        (lambda: streaming.GroupedJSD(edges), lambda s: (y[s], p[s], group[s])),
        (lambda: streaming.BinnedXAUC(edges, edges), lambda s: (y[s], p[s])),
        (lambda: grid.GridXAUC(64), lambda s: (y[s], p[s])),
    ]
    half = len(y) // 2
    found = []
    for make, columns in makers:
        first, second = (make().update(*columns(part), num_threads=threads) for part in (slice(half), slice(half, None)))
        found.append(first.merge(second).result())
    return found


def _vocabulary(labels: Any, threads: int, unit: float | None = None) -> list[Any]:
    vocabulary = ValueVocabulary.fit(labels, unit=unit, num_threads=threads)
    tokens, lengths, residual = vocabulary.encode(labels, num_threads=threads)
    report = vocabulary.report(labels, num_threads=threads)
    return [vocabulary.values, tokens, lengths, residual, vocabulary.decode(tokens), repr(report)]

"""Fitting and using a vocabulary of values against NumPy and torch."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ordkernels.vocabulary import EOS, FIRST_VALUE, ValueVocabulary

from . import OURS, Case, Run, Scaling, Size, Target

Array = np.ndarray
LABELS: dict[Size, tuple[int, ...]] = {"tiny": (300,), "quick": (200_000,), "full": (1_000_000, 10_000_000)}
MAX_TOKENS, TOLERANCE = 20, 0.001
T = MAX_TOKENS - 1


def cases(device: str, size: Size) -> Iterator[Case]:
    for N in LABELS[size] if device == "cpu" else ():
        yield _fit(N)
        yield _encode(N)


def watch_times(N: int, seed: int = 0) -> Array:
    """Milliseconds [N], log-normal, capped at an hour; a tenth are 0."""
    rng = np.random.default_rng(seed)
    y = np.round(np.minimum(rng.lognormal(2.5, 1.3, N), 3600) * 1000).astype(np.int64)
    y[rng.random(N) < 0.1] = 0
    return y


def _values(found: list[int]) -> Array:
    return np.unique([*found, 1])[::-1]


def _loop(y: Array, quantile: Callable[[Array, float], float], rest: Array) -> Array:
    q, found = 0.9999, []
    while int(o := quantile(rest, q)) > 0:
        found.append(int(o))
        np.subtract(rest, o, out=rest, where=rest >= o)
        q = max(0.9, q * 0.99)
        if (rest / (y + 1e-10)).max() <= 1e-6:
            break
    return _values(found)


def by_percentile(y: Array) -> Array:
    """The authors' loop."""
    return _loop(y, lambda rest, q: float(np.percentile(rest, 100 * q)), y.astype(np.float64))


def _between(at: float, low: float, high: float) -> float:
    t = at - int(at)
    return high - (high - low) * (1 - t) if t >= 0.5 else low + (high - low) * t


def by_partition(y: Array) -> Array:
    """The same by one selection a round, in a reused buffer."""
    buffer = np.empty(len(y))

    def quantile(rest: Array, q: float) -> float:
        at = (len(y) - 1) * (100 * q / 100)
        buffer[:] = rest
        buffer.partition(int(at))
        high = buffer[int(at) + 1 :].min() if int(at) + 1 < len(y) else buffer[-1]
        return _between(at, float(buffer[int(at)]), float(high))

    return _loop(y, quantile, y.astype(np.float64))


def by_distinct(y: Array) -> Array:
    """Distinct labels and their counts, kept sorted: a round is a merge of two runs, which NumPy's stable sort of floats does fast."""
    counts = np.bincount(y)
    distinct = np.flatnonzero(counts)
    count, rest, label = counts[distinct], distinct.astype(np.float64), distinct.astype(np.float64) + 1e-10
    q, found = 0.9999, []
    while True:
        at = (len(y) - 1) * (100 * q / 100)
        upto = count.cumsum()
        i, j = np.searchsorted(upto, [int(at), min(int(at) + 1, len(y) - 1)], side="right")
        o = _between(at, float(rest[i]), float(rest[j]))
        if int(o) == 0:
            break
        found.append(int(o))
        rest[np.searchsorted(rest, o) :] -= o
        order = np.argsort(rest, kind="stable")
        rest, count, label = rest[order], count[order], label[order]
        q = max(0.9, q * 0.99)
        if (rest / label).max() <= 1e-6:
            break
    return _values(found)


def _fit(N: int) -> Case:
    y, threads = watch_times(N), torch.get_num_threads()
    runs: dict[str, Run] = {
        OURS: lambda: ValueVocabulary.fit(y, num_threads=threads).values,
        "numpy partition": lambda: by_partition(y),
        "numpy distinct labels": lambda: by_distinct(y),
    }
    if N <= 1_000_000:
        runs["numpy percentile (authors)"] = lambda: by_percentile(y)
    return Case(
        "vocabulary", f"fit N={N}", runs, lambda: (by_percentile(y),), 0.0, bytes=8 * N,
        targets=[Target("at least 8x selection by numpy.partition", "numpy partition", 8)] if N >= 10_000_000 else [],
    )  # fmt: skip


Encoded = tuple[Array, Array, Array]


def by_searchsorted(y: Array, values: Array) -> Encoded:
    """Slot after slot, for the labels that are not yet written; values rise."""
    rest, allowed = y.copy(), (TOLERANCE * y).astype(np.int64)
    tokens, lengths = np.zeros((T, len(y)), np.int16), np.zeros(len(y), np.int32)
    open_rows = np.arange(len(y))
    for t in range(T):
        open_rows = open_rows[rest[open_rows] > allowed[open_rows]]
        if not open_rows.size:
            break
        i = np.searchsorted(values, rest[open_rows], side="right") - 1
        tokens[t, open_rows] = len(values) - 1 - i + FIRST_VALUE
        rest[open_rows] -= values[i]
        lengths[open_rows] += 1
    tokens[lengths, np.arange(len(y))] = EOS
    return tokens.T, lengths, rest


def by_bucketize(y: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slot after slot, for all labels; values rise and begin with 0, the slot of a label that is written."""
    rest, allowed = y.clone(), (TOLERANCE * y.double()).long()
    tokens, lengths = torch.zeros(T, len(y), dtype=torch.int16), torch.zeros(len(y), dtype=torch.int32)
    ids = (len(values) - 1 - torch.arange(len(values)) + FIRST_VALUE).short()
    for t in range(T):
        open_rows = rest > allowed
        if not open_rows.any():
            break
        i = torch.bucketize(rest * open_rows, values, right=True) - 1
        torch.mul(ids[i], open_rows, out=tokens[t])
        rest -= values[i]
        lengths += open_rows
    tokens.scatter_(0, lengths.long()[None], EOS)
    return tokens.T, lengths, rest


def _encode(N: int) -> Case:
    y, threads = watch_times(N), torch.get_num_threads()
    vocabulary = ValueVocabulary.fit(watch_times(min(N, 1_000_000), seed=1))
    rising = np.ascontiguousarray(vocabulary.values[::-1])
    tensor, zero_first = torch.from_numpy(y), torch.from_numpy(np.concatenate(([0], rising)))
    return Case(
        "vocabulary", f"encode N={N} T={T}",
        {
            OURS: lambda: vocabulary.encode(y, MAX_TOKENS, TOLERANCE, num_threads=threads),
            "numpy searchsorted": lambda: by_searchsorted(y, rising),
            "torch.bucketize": lambda: by_bucketize(tensor, zero_first),
        },
        lambda: _greedy_expected(y, vocabulary), 0.0, bytes=N * (8 + 2 * T + 4 + 8),
        targets=[Target("at least 12x the best baseline", "best baseline", 12)] if N >= 10_000_000 else [],
    )  # fmt: skip


def _greedy_expected(y: Array, vocabulary: ValueVocabulary) -> Encoded:
    """Value after value, largest first."""
    rest, allowed = y.copy(), (TOLERANCE * y).astype(np.int64)
    tokens, lengths = np.zeros((len(y), T), np.int16), np.zeros(len(y), np.int32)
    for i, v in enumerate(vocabulary.values):
        while (at := np.flatnonzero((rest >= v) & (rest > allowed))).size:
            tokens[at, lengths[at]] = i + FIRST_VALUE
            rest[at] -= v
            lengths[at] += 1
    tokens[np.arange(len(y)), lengths] = EOS
    return tokens, lengths, rest


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    if device != "cpu":
        return
    top = {"tiny": 2, "quick": 5, "full": 7}[size]
    labels = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))
    vocabulary = ValueVocabulary.fit(watch_times(10_000, seed=1))

    def fit(N: int) -> Run:
        y = watch_times(N)
        return lambda: ValueVocabulary.fit(y, num_threads=torch.get_num_threads())

    def encode(N: int) -> Run:
        y = watch_times(N)
        return lambda: vocabulary.encode(y, MAX_TOKENS, TOLERANCE, num_threads=torch.get_num_threads())

    yield Scaling("vocabulary", "fit", "labels", labels, fit, float)
    yield Scaling("vocabulary", "encode", "labels", labels, encode, float)

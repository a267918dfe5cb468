"""The definition of the data-side vocabulary, in plain NumPy. Arguments are already checked; num_threads is not used.

Labels are whole numbers from 0 up in int64; values are descending whole numbers from 1 up.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["to_units", "vocabulary_encode", "vocabulary_fit", "vocabulary_usage"]

Ints = NDArray[np.int64]
FIRST, EOS = 3, 2


def to_units(labels: NDArray[np.floating], scale: float, slack: float, num_threads: int = 1) -> tuple[Ints, int]:
    """labels [N] times scale, to the nearest whole number [N]; and the index of the first invalid label, or -1."""
    x = labels.astype(np.float64) * scale
    ok = (x >= 0) & (x <= 2**53)
    whole = np.rint(np.where(ok, x, 0))
    ok &= np.abs(np.where(ok, x, 0) - whole) <= slack
    return whole.astype(np.int64), -1 if ok.all() else int(ok.argmin())


def vocabulary_fit(labels: Ints, q_start: float, q_end: float, alpha: float, epsilon: float, num_threads: int = 1) -> Ints:
    """labels [N] -> the values in the order in which they are found."""
    residual, q, found = labels.astype(np.float64), q_start, []
    while True:
        o = np.percentile(residual, 100 * q)
        if int(o) == 0:
            break
        found.append(int(o))
        residual[residual >= o] -= o
        q = max(q_end, q * alpha)
        if (residual / (labels + 1e-10)).max() <= epsilon:
            break
    return np.array(found, np.int64)


def _greedy(labels: Ints, values: Ints, tolerance: float, use: Callable[[int, Ints, Ints], None]) -> tuple[Ints, NDArray[np.bool_]]:
    """Calls use(index of the value, labels that use it, how often each does); returns residuals, and whether each is in the tolerance."""
    residual, allowed = labels.copy(), (tolerance * labels.astype(np.float64)).astype(np.int64)
    for i, v in enumerate(values):
        at = np.flatnonzero((residual > allowed) & (residual >= v))
        times = np.minimum(residual[at] // v, (residual[at] - allowed[at] + v - 1) // v)
        residual[at] -= times * v
        use(i, at, times)
    return residual, residual <= allowed


def vocabulary_encode(
    labels: Ints, values: Ints, tolerance: float, T: int, num_threads: int = 1
) -> tuple[NDArray[np.signedinteger], NDArray[np.int32], Ints, bool]:
    """labels [N] -> tokens [N, T], lengths [N], residuals [N], whether all fit; of those that do not, the length needed, or -1."""
    tokens = np.zeros((len(labels), T), np.int16 if len(values) + FIRST <= 2**15 - 1 else np.int32)
    lengths = np.zeros(len(labels), np.int64)

    def write(i: int, at: Ints, times: Ints) -> None:
        for j, k in zip(at, times, strict=True):
            tokens[j, lengths[j] : lengths[j] + k] = i + FIRST
            lengths[j] += k

    residual, done = _greedy(labels, values, tolerance, write)
    fits = done & (lengths < T)
    tokens[fits, lengths[fits]] = EOS
    return tokens, np.where(done, np.minimum(lengths, 2**31 - 1), -1).astype(np.int32), residual, bool(fits.all())


def vocabulary_usage(labels: Ints, values: Ints, tolerance: float, num_threads: int = 1) -> tuple[Ints, Ints, Ints]:
    """labels [N] -> how often each value is used [V], lengths [N] (-1: cannot be written), residuals [N]."""
    counts, lengths = np.zeros(len(values), np.int64), np.zeros(len(labels), np.int64)

    def count(i: int, at: Ints, times: Ints) -> None:
        counts[i] = times.sum()
        lengths[at] += times

    residual, done = _greedy(labels, values, tolerance, count)
    return counts, np.where(done, lengths, -1), residual

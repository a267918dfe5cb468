"""Does a series of measurements grow? A robust test for the resident memory and the counts of a long run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import erf, sqrt
from statistics import median

BLOCKS = 24
P_VALUE = 0.001


@dataclass(frozen=True)
class Growth:
    """`amount` over the last two thirds of the run, `p` that chance alone gives such an order, and `found`: it grows."""

    first: float  # level after the warm-up
    last: float
    amount: float
    p: float
    found: bool


def growth(values: Sequence[float], tolerance: float) -> Growth:
    """Whether `values`, measured at even distances, grow by more than `tolerance` over the last two thirds of the run.

    1. The first third is left out: caches fill, and the allocator takes what the largest call needs.
    2. The rest is cut into 24 blocks, of which the lowest value counts: what is still held when least is in use. A leak raises it,
       while the sizes that happened to be drawn hardly do.
    3. Slope: the median of the slopes of all pairs of blocks (Theil-Sen), so that a few outliers or a single step do not count.
       `amount` is the slope times the number of blocks.
    4. Order: Mann-Kendall's test, one-sided, with the correction of its variance for ties.

    It grows if `amount` is above `tolerance` and the order's p-value below 0.001. A leak that is smaller than the tolerance within one
    run is not seen.

    Raises:
        ValueError: fewer than 3 BLOCKS values.
    """
    if len(values) < 3 * BLOCKS:
        raise ValueError(f"values: expected at least {3 * BLOCKS}, got {len(values)}")
    kept = values[len(values) // 3 :]
    lows = [min(kept[i * len(kept) // BLOCKS : (i + 1) * len(kept) // BLOCKS]) for i in range(BLOCKS)]
    pairs = list(combinations(range(BLOCKS), 2))
    amount = BLOCKS * median((lows[j] - lows[i]) / (j - i) for i, j in pairs)
    p = _mann_kendall(lows, pairs)
    return Growth(lows[0], lows[-1], amount, p, amount > tolerance and p < P_VALUE)


def _mann_kendall(x: Sequence[float], pairs: Sequence[tuple[int, int]]) -> float:
    """The one-sided p-value of a rising order, by the normal approximation with continuity correction."""
    n, s = len(x), sum((x[j] > x[i]) - (x[j] < x[i]) for i, j in pairs)
    ties = Counter(x).values()
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    if variance == 0 or s <= 0:
        return 1.0
    return 0.5 * (1 - erf((s - 1) / sqrt(2 * variance)))

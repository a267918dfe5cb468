"""Slow definitions in Python's integers and fractions, exact until the last rounding, of columns given as lists."""

import bisect
import itertools
import math
from fractions import Fraction
from typing import Any

Numbers = list[Any]


def root(x: Fraction) -> float:
    """The square root, to 2^-60 of itself."""
    if x == 0:
        return 0.0
    shift = 2 * (70 + max(0, x.denominator.bit_length() - x.numerator.bit_length()))
    return as_float(Fraction(math.isqrt((x.numerator << shift) // x.denominator), 1 << (shift // 2)))


def as_float(x: Any) -> float:
    try:
        return float(x)
    except OverflowError:
        return math.copysign(math.inf, x)


def errors(y: Numbers, p: Numbers) -> list[Fraction]:
    return [abs(Fraction(a) - Fraction(b)) for a, b in zip(y, p, strict=True)]


def mae(y: Numbers, prediction: Numbers) -> Fraction:
    return Fraction(sum(errors(y, prediction)), len(y)) if y else Fraction(0)


def rmse(y: Numbers, prediction: Numbers) -> float:
    return root(sum((e * e for e in errors(y, prediction)), Fraction(0)) / len(y))


def lcc(y: Numbers, prediction: Numbers) -> float:
    n, u, v = len(y), list(map(Fraction, y)), list(map(Fraction, prediction))
    my, mp = sum(u) / n, sum(v) / n
    yy, pp = sum((a - my) ** 2 for a in u), sum((b - mp) ** 2 for b in v)
    yp = sum((a - my) * (b - mp) for a, b in zip(u, v, strict=True))
    return (1 if yp >= 0 else -1) * root(Fraction(yp**2) / (yy * pp)) if yy and pp else math.nan


def mean_ranks(x: Numbers) -> list[Fraction]:
    ordered = sorted(x)
    return [Fraction(bisect.bisect_left(ordered, v) + bisect.bisect_right(ordered, v) - 1, 2) for v in x]


def srcc(y: Numbers, prediction: Numbers) -> float:
    return lcc(mean_ranks(y), mean_ranks(prediction))


def normalized_gini(y: Numbers, prediction: Numbers) -> float:
    middle = Fraction(len(y) - 1, 2)

    def area(by: Numbers) -> Fraction:
        return sum((Fraction(a) * (r - middle) for a, r in zip(y, mean_ranks(by), strict=True)), Fraction(0))

    return as_float(area(prediction) / area(y)) if len(set(y)) > 1 else math.nan


def pair_counts(y: Numbers, p: Numbers, weight: Numbers | None = None, group: Numbers | None = None) -> list[Fraction]:
    """Concordant, tied in the prediction, pairs of different y."""
    counts = [Fraction(0)] * 3
    for i, j in itertools.combinations(range(len(y)), 2):
        if y[i] != y[j] and (group is None or group[i] == group[j]):
            w = Fraction(1) if weight is None else Fraction(weight[i]) * Fraction(weight[j])
            counts[2] += w
            counts[1] += w * (p[i] == p[j])
            counts[0] += w * ((y[i] > y[j]) == (p[i] > p[j]) and p[i] != p[j])
    return counts


def xauc(y: Numbers, prediction: Numbers, ties: str = "half", weight: Any = None, group: Any = None, average: str = "group") -> list[Any]:
    n = len(y)
    concordant, tied, pairs = pair_counts(y, prediction, weight, group)
    if ties == "reference":
        order = sorted(range(n), key=lambda i: prediction[i], reverse=True)
        concordant = Fraction(sum(y[i] > y[j] for i, j in itertools.combinations(order, 2)))
        pairs, value = Fraction(n * (n - 1) // 2), concordant / (n * (n - 1) // 2) if n > 1 else math.nan
        return [value, concordant, tied, pairs]
    half = Fraction(1, 2) if ties == "half" else 0
    if group is not None and average == "group":
        found = []
        for g in set(group):
            rows = [i for i in range(n) if group[i] == g]
            c, t, m = pair_counts(*([x[i] for i in rows] for x in (y, prediction)), None if weight is None else [weight[i] for i in rows])
            found += [(c + half * t) / m] if m else []
        return [sum(found) / len(found) if found else math.nan, concordant, tied, pairs]
    return [(concordant + half * tied) / pairs if pairs else math.nan, concordant, tied, pairs]


def kendall_tau(y: Numbers, prediction: Numbers, variant: str) -> float:
    n = len(y)
    concordant, tied, pairs = pair_counts(y, prediction)
    of_p = sum(a != b for a, b in itertools.combinations(prediction, 2))
    m = min(len(set(y)), len(set(prediction)))
    scale = {"a": Fraction(n * (n - 1) // 2) ** 2, "b": pairs * of_p, "c": Fraction(n * n * (m - 1), 2 * m) ** 2}[variant]
    d = 2 * concordant + tied - pairs
    return (1 if d >= 0 else -1) * root(d * d / scale) if scale else math.nan


def coverage(lower: Numbers, upper: Numbers, y: Numbers) -> list[Fraction]:
    n = len(y)
    return [
        Fraction(sum(a <= t <= b for a, b, t in zip(lower, upper, y, strict=True)), n),
        sum((Fraction(b) - Fraction(a) for a, b in zip(lower, upper, strict=True)), Fraction(0)) / n,
    ]


def bins(x: Numbers, edges: Numbers) -> list[int]:
    return [bisect.bisect_right(edges[1:-1], v) for v in x]


def mae_by_interval(y: Numbers, prediction: Numbers, edges: Numbers) -> list[Any]:
    at, e = bins(y, edges), errors(y, prediction)
    parts = [[x for x, k in zip(e, at, strict=True) if k == m] for m in range(len(edges) - 1)]
    return [*(sum(part, Fraction(0)) / len(part) if part else math.nan for part in parts), *map(len, parts)]


def histogram_jsd(y: Numbers, prediction: Numbers, group: Numbers, edges: Numbers, base: float) -> float:
    found = []
    for g in set(group):
        p, q = ([Fraction(0)] * (len(edges) - 1) for _ in range(2))
        rows = [i for i in range(len(y)) if group[i] == g]
        for to, x in ((p, y), (q, prediction)):
            for k in bins([x[i] for i in rows], edges):
                to[k] += Fraction(1, len(rows))
        found.append(sum(float(a) * math.log(2 * a / (a + b)) / 2 for u, v in ((p, q), (q, p)) for a, b in zip(u, v, strict=True) if a))
    return sum(found) / len(found) / math.log(base)


def quantile(values: Numbers, level: float) -> Any:
    """Linear between order statistics; NaN of none."""
    if not values:
        return math.nan
    x, at = sorted(map(Fraction, values)), (len(values) - 1) * Fraction(level)
    low = min(math.floor(at), len(x) - 1)
    return x[low] + (at - low) * (x[min(low + 1, len(x) - 1)] - x[low])


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds of Philox-4x32 on Python's integers."""
    c, k = [x % 2**32 for x in counter], [x % 2**32 for x in key]
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def encode(labels: list[int], values: list[int], T: int, tolerance: float) -> list[list[int]] | None:
    """Greedy tokens, EOS and PAD included; None where a label cannot be written."""
    out = []
    for label in labels:
        rest, tokens = label, []
        while Fraction(rest) > Fraction(tolerance) * label:
            at = next((i for i, v in enumerate(values) if v <= rest), None)
            if at is None or len(tokens) == T - 1:
                return None
            tokens.append(3 + at)
            rest -= values[at]
        out.append([*tokens, 2, *[0] * (T - 1 - len(tokens))])
    return out

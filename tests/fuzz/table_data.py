"""The fuzz entries of the data side: scores, quantiles, vocabulary, accumulators and metrics. See CONTRIBUTING, "Add an op"."""

import inspect
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import fuzz_expected as expected
import numpy as np
import pytest
import torch
from fuzz_arguments import THREADS, Choice, Column, Draw, Made, Number, snapshot
from fuzz_checks import Call, Entry, run, same, unchanged

from ordkernels import quantiles, scores
from ordkernels.vocabulary import ValueVocabulary

FEW = {"B": (1, 2, 3, 7, 8, 9, 16, 17, 33), "L": (1, 2, 5), "G": (1, 2, 5)}
ROWS = {"B": (1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 127, 128, 129)}
FLOAT_COLUMN = (np.float64, np.float32)


def against(definition: Callable[..., Any], *, rounding: float = 2e-15) -> Callable[[Entry, Call, str], None]:
    """A check: the same bits twice, nothing written, and as the slow definition gives it."""

    def check(entry: Entry, call: Call, backend: str) -> None:
        before = {name: snapshot(x) for name, x in call.arguments.items()}
        got = run(entry, call.arguments, backend)
        unchanged(call.arguments, before, str(backend))
        assert all(map(same, got, run(entry, call.arguments, backend))), "two calls differ"
        takes = inspect.signature(definition).parameters
        plain = {name: call.draw.plain.get(name, x) for name, x in call.arguments.items() if name in takes}
        wanted = definition(**plain)
        numbers = [x for t in got for x in t.reshape(-1).tolist()]
        wanted = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        assert len(numbers) == len(wanted), f"{numbers} for {wanted}"
        for i, (a, b) in enumerate(zip(numbers, wanted, strict=True)):
            assert is_close(a, b, rounding), f"number {i}: got {a!r}, expected {expected.as_float(b)!r}"

    return check


def is_close(a: float, b: Any, rounding: float) -> bool:
    if isinstance(b, float) and not math.isfinite(b):
        return math.isnan(a) if math.isnan(b) else a == b
    if not math.isfinite(a):
        return a == expected.as_float(b) or (math.isinf(a) and abs(b) > 1.79e308 and (a > 0) == (b > 0))
    return abs(Fraction(a) - Fraction(b)) <= Fraction(rounding) * abs(Fraction(b)) + Fraction(5e-324)


def within(definition: Callable[..., Any], scale: float = 1.0) -> Callable[[Entry, Call, str], None]:
    """As `against`, for values whose parts cancel: to 1e-12 of `scale`."""

    def check(entry: Entry, call: Call, backend: str) -> None:
        takes = inspect.signature(definition).parameters
        plain = {name: call.draw.plain.get(name, x) for name, x in call.arguments.items() if name in takes}
        got, wanted = run(entry, call.arguments, backend)[0].item(), definition(**plain)
        assert (math.isnan(got) and math.isnan(wanted)) or abs(got - wanted) <= 1e-12 * scale, f"got {got!r}, expected {wanted!r}"

    return check


# ------------------------------------------------------------------------------------------------ scores


def edges(d: Draw) -> Any:
    x = np.unique(d.random.standard_normal(d.choose(2, 3, 6)).round(1) * d.choose(1, 10))
    x = np.append(x, x[-1] + 1) if len(x) < 2 else x
    d.plain["edges"] = x.tolist()
    return d.choose(x, x.tolist(), torch.from_numpy(x))


class Ordered(Column):
    """Upper ends: at or above the lower ones."""

    def draw(self, name: str, d: Draw) -> Any:
        steps = d.random.random(d.size("B")).round(1) * d.choose(1, 0, 10)
        top = (np.asarray(d.plain["lower"], np.float64) + steps).tolist()
        d.plain[name] = top
        return top


def cumulative_score(y: list[Any], prediction: list[Any], theta: Any) -> Any:
    return Fraction(sum(e <= Fraction(float(theta)) for e in expected.errors(y, prediction)), len(y))


def auc(y: list[Any], prediction: list[Any], weight: Any = None) -> Any:
    return expected.xauc(y, prediction, weight=weight)[0]


def labels_01(a: np.ndarray) -> np.ndarray:
    b = (np.arange(len(a)) * 7919) % 3 == 0
    return b if len(set(b.tolist())) == 2 else np.arange(len(a)) % 2 == 0


def decile_rows(y: list[Any], prediction: list[Any], bins: int) -> list[Any]:
    starts = [sorted(prediction)[k * len(y) // bins] for k in range(1, bins)]
    at = [sum(s <= p for s in starts) for p in prediction]
    rows = [[i for i, k in enumerate(at) if k == m] for m in range(bins)]

    def means(x: list[Any]) -> list[Any]:
        return [sum((Fraction(x[i]) for i in part), Fraction(0)) / len(part) if part else math.nan for part in rows]

    total = sum(map(Fraction, y))
    shares = [sum((Fraction(y[i]) for i in part), Fraction(0)) / total if total else math.nan for part in rows]
    return [*map(len, rows), *means(prediction), *means(y), *shares]


PAIR = dict(y=Column(), prediction=Column())
FINITE_PAIR: dict[str, Any] = PAIR | {"num_threads": THREADS}
ANY_PAIR: dict[str, Any] = dict(y=Column(infinite=True), prediction=Column(infinite=True))
WEIGHT = Column(dtypes=FLOAT_COLUMN, low=0.0, high=1e6, optional=True)
GROUP = Column(dtypes=(np.int64, np.int32, np.uint8, np.uint64))
THETA = Number((0, 0.5, 3, np.float32(1.5), 1e300))
SCORES = [
    Entry(scores.mae, FINITE_PAIR, against(expected.mae), sizes=ROWS),
    Entry(scores.rmse, FINITE_PAIR, against(expected.rmse), sizes=ROWS),
    Entry(
        scores.cumulative_score,
        dict(y=Column(dtypes=(np.int64, np.int32, np.uint64, np.uint8)), prediction=Column(dtypes=(np.int64, np.uint64)), theta=THETA),
        against(cumulative_score),
        sizes=ROWS,
    ),
    Entry(scores.lcc, FINITE_PAIR, within(expected.lcc), sizes=ROWS),
    Entry(scores.srcc, ANY_PAIR | {"num_threads": THREADS}, within(expected.srcc), sizes=ROWS),
    Entry(scores.kendall_tau, ANY_PAIR | {"variant": Choice(("a", "b", "c"))}, against(expected.kendall_tau), sizes=FEW),
    Entry(scores.normalized_gini, PAIR, within(expected.normalized_gini), backends=(None,), sizes=FEW),
    Entry(
        scores.decile_table,
        dict(y=Column(dtypes=FLOAT_COLUMN, low=0.0), prediction=Column(), bins=Number((10, 1, 3))),
        against(decile_rows, rounding=1e-13),
        backends=(None,),
        sizes=FEW,
    ),
    Entry(
        scores.xauc,
        ANY_PAIR
        | dict(
            ties=Choice(("half", "strict")),
            weight=WEIGHT,
            group=Column(dtypes=(np.int64, np.uint8), optional=True),
            average=Choice(("group", "pair")),
            num_threads=THREADS,
        ),
        against(expected.xauc, rounding=1e-13),
        sizes=FEW,
    ),
    Entry(scores.xauc, ANY_PAIR | dict(ties=Choice(("reference",))), against(expected.xauc), sizes=FEW),
    Entry(
        scores.auc,
        dict(
            y=Column(dtypes=(np.int64, np.float32, np.bool_), map=labels_01),
            prediction=Column(infinite=True),
            weight=Column(dtypes=FLOAT_COLUMN, low=0.5, high=1e6, optional=True),
        ),
        against(auc, rounding=1e-13),
        sizes=FEW | {"B": (2, 3, 7, 8, 9, 17)},
    ),
    Entry(
        scores.coverage,
        dict(lower=Column(dtypes=FLOAT_COLUMN, low=-1e15, high=1e15), upper=Ordered(), y=Column(infinite=True), num_threads=THREADS),
        against(expected.coverage, rounding=1e-12),
        sizes=ROWS,
    ),
    Entry(
        scores.mae_by_interval,
        PAIR | {"edges": Made(edges)},
        against(expected.mae_by_interval, rounding=1e-13),
        backends=(None,),
        sizes=ROWS,
    ),
    Entry(
        scores.histogram_jsd,
        ANY_PAIR | dict(group=GROUP, edges=Made(edges), base=Number((math.e, 2, 10.0)), num_threads=THREADS),
        within(expected.histogram_jsd),
        sizes=FEW,
    ),
    Entry(
        scores.relaimpr,
        dict(measured=Number((0.5, 0.7, 1, 0.0, np.float32(0.75))), base=Number((0.6, 1, 0.0, 0.75))),
        against(lambda measured, base: (float(measured) - 0.5) / (float(base) - 0.5) - 1),
        backends=(None,),
    ),
]


# ------------------------------------------------------------------------------------------------ quantiles


def offsets(d: Draw) -> Any:
    n = d.size("B")
    cuts = np.sort(d.random.integers(0, n + 1, d.size("G") - 1))
    x = np.concatenate(([0], cuts, [n])).astype(d.choose(np.int64, np.int32, np.uint16))
    d.plain["offsets"] = x.tolist()
    return d.choose(x, x.tolist(), torch.from_numpy(x.astype(np.int64)), np.repeat(x, 2)[::2])


def levels(d: Draw) -> Any:
    x = np.append(d.random.random(d.size("L") - 1), d.choose(0.5, 0.0, 1.0))
    d.plain["levels"] = x.tolist()
    return d.choose(x, x.tolist(), torch.from_numpy(x), x[:])


def segments(values: list[Any], offsets: list[int], levels: list[float]) -> list[Any]:
    return [expected.quantile(values[a:b], level) for a, b in itertools.pairwise(offsets) for level in levels]


def without_own(values: list[Any], offsets: list[int], levels: list[float]) -> list[Any]:
    parts = [(a, b) for a, b in itertools.pairwise(offsets)]
    return [expected.quantile(values[a:i] + values[i + 1 : b], level) for a, b in parts for i in range(a, b) for level in levels]


def in_other_folds(values: list[Any], offsets: list[int], levels: list[float], folds: int, seed: int) -> list[Any]:
    fold = [int(bits) % int(folds) for bits in np.random.Philox(key=int(seed) % 2**64).random_raw(len(values))]
    groups = [(a, b, i) for a, b in itertools.pairwise(offsets) for i in range(a, b)]
    others = [[values[j] for j in range(a, b) if fold[j] != fold[i]] for a, b, i in groups]
    return [expected.quantile(part, level) for part in others for level in levels]


def pasts(values: list[Any], group: list[Any], time: list[Any], levels: list[float], min_events: int) -> list[Any]:
    out = []
    for g, t in zip(group, time, strict=True):
        past = [v for v, h, u in zip(values, group, time, strict=True) if h == g and u < t]
        out += [expected.quantile(past if len(past) >= min_events else [], level) for level in levels]
    return out


def quantile_check(definition: Callable[..., Any]) -> Callable[[Entry, Call, str], None]:
    """To a few roundings of the largest value, in the dtype of the values."""

    def check(entry: Entry, call: Call, backend: str) -> None:
        d = call.draw
        got = run(entry, call.arguments, backend)[0]
        assert same(got, run(entry, call.arguments, backend)[0]), "two calls differ"
        takes = inspect.signature(definition).parameters
        wanted = definition(**{name: d.plain.get(name, x) for name, x in call.arguments.items() if name in takes})
        largest = max((abs(Fraction(v)) for v in d.plain["values"]), default=0)
        slack = 16 * Fraction(torch.finfo(got.dtype).eps) * largest + Fraction(torch.finfo(got.dtype).smallest_normal)
        for i, (a, b) in enumerate(zip(got.reshape(-1).tolist(), wanted, strict=True)):
            if isinstance(b, float) and math.isnan(b):
                assert math.isnan(a), f"number {i}: got {a}, expected NaN"
            else:
                assert math.isfinite(a), f"number {i}: got {a}, expected {float(b)}"
                assert abs(Fraction(a) - b) <= slack, f"number {i}: got {a}, expected {float(b)}"

    return check


VALUES = Column(dtypes=(np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8), low=-1e30, high=1e30)
RAGGED = dict(values=VALUES, offsets=Made(offsets), levels=Made(levels), num_threads=THREADS)
WITH_EMPTY = FEW | {"B": (1, 0, 2, 3, 7, 8, 9, 17, 33)}
QUANTILES = [
    Entry(quantiles.segment_quantiles, RAGGED, quantile_check(segments), sizes=WITH_EMPTY),
    Entry(quantiles.leave_one_out_quantiles, RAGGED, quantile_check(without_own), sizes=WITH_EMPTY),
    Entry(
        quantiles.out_of_fold_quantiles,
        RAGGED | dict(folds=Number((5, 2, 3, 1000)), seed=Number((0, 7, -1, 2**63))),
        quantile_check(in_other_folds),
        sizes=WITH_EMPTY,
    ),
    Entry(
        quantiles.history_quantiles,
        dict(
            values=VALUES,
            group=GROUP,
            time=Column(dtypes=(np.int64, np.float64, np.uint64, np.int32), infinite=True),
            levels=Made(levels),
            min_events=Number((1, 2, 100, 2**70)),
            num_threads=THREADS,
        ),
        quantile_check(pasts),
        sizes=WITH_EMPTY,
    ),
]


# ------------------------------------------------------------------------------------------------ vocabulary


def encode(values: Any, labels: Any, max_tokens: Any = 20, tolerance: Any = 0.001, num_threads: Any = None) -> Any:
    return ValueVocabulary(values).encode(labels, max_tokens, tolerance, num_threads=num_threads)


def decode(values: Any, tokens: Any) -> Any:
    return ValueVocabulary(values).decode(tokens)


def report(values: Any, labels: Any, tolerance: Any = 0.001, num_threads: Any = None) -> Any:
    r = ValueVocabulary(values).report(labels, tolerance, num_threads=num_threads)
    return r.counts, r.lengths, np.array([r.longest, r.labels])


def fit(labels: Any, q_start: Any, q_end: Any, alpha: Any, epsilon: Any, num_threads: Any = None) -> Any:
    return ValueVocabulary.fit(labels, q_start=q_start, q_end=q_end, alpha=alpha, epsilon=epsilon, num_threads=num_threads).values


def covering(values: Any, labels: Any, max_tokens: Any = 20, tolerance: Any = 0.001, num_threads: Any = None) -> Any:
    return ValueVocabulary(values).covering(labels, max_tokens, tolerance, num_threads=num_threads).values


def manual(largest: Any, unit: Any = None) -> Any:
    return ValueVocabulary.manual(largest, unit=unit).values


def binary(largest: Any, unit: Any = None) -> Any:
    return ValueVocabulary.binary(largest, unit=unit).values


def encoded(entry: Entry, call: Call, backend: str) -> None:
    d = call.draw
    values = sorted(set(d.plain["values"]), reverse=True)
    T = call.arguments["max_tokens"] - 1
    wanted = expected.encode(list(map(int, d.plain["labels"])), values, T, call.arguments["tolerance"])
    if wanted is None:
        with pytest.raises(ValueError, match="labels: expected"):
            run(entry, call.arguments, backend)
        return
    tokens, lengths, residual = run(entry, call.arguments, backend)
    assert tokens.tolist() == wanted
    assert lengths.tolist() == [row.index(2) for row in wanted]
    written = decode(d.plain["values"], tokens.numpy())
    assert (torch.as_tensor(np.asarray(written)) + residual).tolist() == d.plain["labels"]


def covered(entry: Entry, call: Call, backend: str) -> None:
    """The values that there were, and powers of two, by which all labels fit: with 18 of them also those written exactly."""
    found = run(entry, call.arguments, backend)[0].tolist()
    given = set(map(int, call.draw.plain["values"]))
    assert given <= set(found)
    assert all(v in given or v.bit_count() == 1 for v in found)
    T = call.arguments["max_tokens"] - 1
    assert expected.encode(list(map(int, call.draw.plain["labels"])), found, T, call.arguments["tolerance"]) is not None


def decoded(entry: Entry, call: Call, backend: str | None) -> None:
    values = [0, 0, 0, *sorted(set(call.draw.plain["values"]), reverse=True)]
    wanted = [sum(values[t] for t in (row[: row.index(2)] if 2 in row else row)) for row in call.draw.plain["tokens"]]
    assert run(entry, call.arguments, backend)[0].tolist() == wanted


def as_reference(entry: Entry, call: Call, backend: str | None) -> None:
    """The same bits as the definition in NumPy."""
    before = {name: snapshot(x) for name, x in call.arguments.items()}
    got = run(entry, call.arguments, backend)
    unchanged(call.arguments, before, str(backend))
    assert all(map(same, got, run(entry, call.arguments, "reference"))), f"{got} differ from the reference"


def descending(entry: Entry, call: Call, backend: str | None) -> None:
    values = run(entry, call.arguments, backend)[0].tolist()
    assert values == sorted(set(values), reverse=True)
    assert values[-1] == 1


def some_tokens(d: Draw) -> Any:
    V = 3 + len(set(d.plain["values"]))
    x = d.random.integers(0, V, (d.size("B"), d.size("L"))).astype(d.choose(np.int64, np.int16, np.uint8))
    d.plain["tokens"] = x.tolist()
    return d.choose(x, torch.from_numpy(x.astype(np.int64)), np.asfortranarray(x), x[:, ::-1][:, ::-1])


SOME_VALUES = Column(dtypes=(np.int64, np.int32), low=1, high=2000, letter="V")
LABELS = Column(dtypes=(np.int64, np.int32, np.uint8, np.uint64), low=0, high=100000)
LARGEST = Number((1, 60, 100.0, 0, 7, np.int32(9), 2**53))
VOCABULARY = [
    Entry(
        encode,
        dict(
            values=SOME_VALUES, labels=LABELS, max_tokens=Number((2, 8, 20, 60)), tolerance=Number((0.001, 0.0, 0.5)), num_threads=THREADS
        ),
        encoded,
        covers="vocabulary.ValueVocabulary",
    ),
    Entry(
        covering,
        dict(values=SOME_VALUES, labels=LABELS, max_tokens=Number((20, 60)), tolerance=Number((0.001, 0.0, 0.5)), num_threads=THREADS),
        covered,
        covers="vocabulary.ValueVocabulary",
    ),
    Entry(decode, dict(values=SOME_VALUES, tokens=Made(some_tokens)), decoded, backends=(None,), covers="vocabulary.ValueVocabulary"),
    Entry(
        report,
        dict(
            values=Column(dtypes=(np.int64,), low=1, high=1, letter="1"),
            labels=Column(dtypes=(np.int64, np.uint8), low=0, high=50),
            tolerance=Number((0.001, 0.0)),
            num_threads=THREADS,
        ),
        as_reference,
        covers="vocabulary.VocabularyReport",
    ),
    Entry(
        fit,
        dict(
            labels=Column(dtypes=(np.int64, np.uint8, np.int32), low=0, high=5000),
            q_start=Number((0.9999, 1, 0.95)),
            q_end=Number((0.9, 0.5)),
            alpha=Number((0.99, 0.5, 1)),
            epsilon=Number((1e-6, 0.1)),
            num_threads=THREADS,
        ),
        as_reference,
        covers="vocabulary.ValueVocabulary",
        sizes=FEW,
    ),
    Entry(manual, dict(largest=LARGEST, unit=Number((None, 1.0, 2))), descending, backends=(None,), covers="vocabulary.ValueVocabulary"),
    Entry(binary, dict(largest=LARGEST, unit=Number((None, 1.0, 2))), descending, backends=(None,), covers="vocabulary.ValueVocabulary"),
]

DATA = [*SCORES, *QUANTILES, *VOCABULARY]

"""Numbers as short sequences of value tokens: the vocabulary, and encoding with it.

NumPy in, NumPy out; torch tensors come back as tensors. No torch unless a tensor comes in.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._backend import compiled_host, register_host
from ._validation import arrays
from ._validation.numbers import integer, python_scalar, real
from ._validation.numbers import num_threads as _threads
from .reference import vocabulary as reference

__all__ = ["EOS", "FIRST_VALUE", "PAD", "SOS", "ValueVocabulary", "VocabularyReport"]

PAD, SOS, EOS, FIRST_VALUE = 0, 1, 2, 3
_MAX_LABEL = 2**53  # in units: the largest up to which fp64 holds every whole number
_MAX_COUNTED_LENGTH = 1024
register_host("vocabulary_encode", "vocabulary_fit", "vocabulary_usage")


def _kernels(op: str) -> Any:
    """The module that computes `op`: compiled, or the reference."""
    return compiled_host(op) or reference


class ValueVocabulary:
    r"""Values that labels are written as sums of, and the tokens that stand for them.

    Tokens 0, 1 and 2 are PAD, SOS and EOS; token ``3 + i`` is the i-th largest value. A label is written greedily: the largest
    value that is not above the residual, again and again, until the residual is at most ``tolerance`` of the label; then EOS.

    Args:
        values: whole numbers from 1 up, in units; any order, repeats are dropped.
        unit: the size of a unit in the labels' unit (0.001: labels in seconds, values in milliseconds). None: labels are whole
            numbers of units themselves.

    Raises:
        TypeError, ValueError: values that are not integers from 1 to 2^53, or none; a unit that is not positive and finite.

    Source: GR; `fit` is its authors' loop.

    Example:
        >>> v = ValueVocabulary([1, 5, 20])
        >>> tokens, lengths, residual = v.encode([47, 0, 5], max_tokens=8)
        >>> tokens.tolist()
        [[3, 3, 4, 5, 5, 2, 0], [2, 0, 0, 0, 0, 0, 0], [4, 2, 0, 0, 0, 0, 0]]
        >>> v.decode(tokens).tolist()
        [47, 0, 5]
    """

    def __init__(self, values: ArrayLike, *, unit: float | None = None) -> None:
        self.unit = _unit(unit)
        a = arrays.integers("values", values, letter="V")
        if a.size == 0 or a.min() < 1 or a.max() > _MAX_LABEL:
            raise ValueError(f"values: expected at least one, from 1 to 2^53, got {f'{a.min()} to {a.max()}' if a.size else 'none'}")
        self._values = np.unique(a)[::-1].copy()
        self._values.flags.writeable = False

    @classmethod
    def fit(
        cls,
        labels: ArrayLike,
        *,
        q_start: float = 0.9999,
        q_end: float = 0.9,
        alpha: float = 0.99,
        epsilon: float = 1e-6,
        unit: float | None = None,
        num_threads: int | None = None,
    ) -> "ValueVocabulary":
        r"""Take quantiles of the labels' residuals as values, one after another.

        Repeat: :math:`o` = percentile :math:`100 q` of the residuals; stop if its whole part is 0; its whole part is a value; subtract
        :math:`o` from every residual that is not below it; :math:`q \leftarrow \max(q_{end}, \alpha q)`; until no residual is above
        ``epsilon`` of its label. The unit itself is added, so that every label can be written. `values` has each value once.

        Args:
            labels: ``[N]``, 0 and more, N from 1 to 2^32 - 1.
            q_start, q_end: 0 < q_end <= q_start <= 1. With 1 the loop takes a round for every distinct label.
            alpha: in (0, 1].
            epsilon: at least 0.
            unit: see the class; labels are rounded to the nearest unit.
            num_threads: by default ``ORDKERNELS_NUM_THREADS``, or every core this process may use. It changes no result.

        Raises:
            TypeError, ValueError: for labels with the index of the first bad one.

        Source: GR's authors' code, token for token; unique, sorted, and the unit are ours.

        Example:
            >>> ValueVocabulary.fit([0, 10, 20, 30, 100]).values.tolist()
            [99, 29, 19, 8, 1]
        """
        q_start, q_end, alpha = real("q_start", q_start), real("q_end", q_end), real("alpha", alpha)
        epsilon = real("epsilon", epsilon, least=0, finite=False)
        if not 0 < q_end <= q_start <= 1:
            raise ValueError(f"q_start, q_end: expected 0 < q_end <= q_start <= 1, got {q_start} and {q_end}")
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha: expected a number in (0, 1], got {alpha}")
        threads, kernels = _threads(num_threads), _kernels("vocabulary_fit")
        y = _labels(labels, _unit(unit), threads, kernels)
        if not 0 < y.size < 2**32:
            raise ValueError(f"labels: expected from 1 to 2^32 - 1 of them, got {y.size}")
        found = kernels.vocabulary_fit(y, q_start, q_end, alpha, epsilon, threads)
        return cls(np.append(found, 1), unit=unit)

    @classmethod
    def manual(cls, largest: Any, *, digits: ArrayLike = (1, 3, 5), unit: float | None = None) -> "ValueVocabulary":
        """1, 3, 5, 10, 30, 50, ...: every digit times every power of ten, up to the largest label.

        Args:
            largest: a number in the labels' unit, or labels ``[N]`` whose largest is meant.
            digits: ``[D]`` whole numbers from 1 up, 1 among them.
            unit: see the class.

        Raises:
            TypeError, ValueError: as `fit`; digits without 1.

        Source: GR, the manual vocabulary of its table 3.

        Example:
            >>> ValueVocabulary.manual(60).values.tolist()
            [50, 30, 10, 5, 3, 1]
        """
        factors = arrays.integers("digits", digits, letter="D").tolist()
        if 1 not in factors or min(factors) < 1:
            raise ValueError(f"digits: expected whole numbers from 1 up with 1 among them, got {factors}")
        top = _largest(largest, unit)
        return cls([d * 10**n for n in range(len(str(top))) for d in factors if d * 10**n <= top], unit=unit)

    @classmethod
    def binary(cls, largest: Any, *, unit: float | None = None) -> "ValueVocabulary":
        """1, 2, 4, 8, ...: the powers of two up to the largest label, so that no value is used twice.

        Args:
            largest, unit: as for `manual`.

        Raises:
            TypeError, ValueError: as `fit`.

        Source: GR, the binary vocabulary of its table 3.

        Example:
            >>> ValueVocabulary.binary([3, 20, 7]).values.tolist()
            [16, 8, 4, 2, 1]
        """
        return cls([1 << n for n in range(_largest(largest, unit).bit_length())], unit=unit)

    @property
    def values(self) -> NDArray[np.int64]:
        """``[V - 3]`` int64, descending, in units, without the special tokens."""
        return self._values

    @property
    def token_values(self) -> NDArray[np.float64]:
        """``[V]``: what each token adds to a label, in the labels' unit; 0 for the three specials."""
        return np.concatenate((np.zeros(FIRST_VALUE), self._from_units(self._values)))

    @property
    def size(self) -> int:
        """V, special tokens included."""
        return FIRST_VALUE + len(self._values)

    def __len__(self) -> int:
        return self.size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ValueVocabulary) and self.unit == other.unit and np.array_equal(self._values, other._values)

    def __hash__(self) -> int:
        return hash((self.unit, self._values.tobytes()))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._values.flags.writeable = False  # lost in a pickle and in a copy

    def __repr__(self) -> str:
        return f"ValueVocabulary({len(self._values)} values from {self._values[-1]} to {self._values[0]}, unit={self.unit})"

    def encode(self, labels: ArrayLike, max_tokens: int = 20, tolerance: float = 0.001, *, num_threads: int | None = None) -> Any:
        """Write labels as tokens, greedily.

        Args:
            labels: ``[N]``, 0 and more; with a unit they are rounded to the nearest one.
            max_tokens: as for `ops.value_decode` it counts SOS, which is not in the result: ``T = max_tokens - 1``, EOS included.
            tolerance: in [0, 1): a label is written up to a residual of at most this share of it. 0: exactly, as in the authors' code.
            num_threads: see `fit`.

        Returns:
            ``(tokens [N, T], lengths [N], residual [N])``: tokens int16 (int32 for more than 2^15 - 1), values descending, EOS, then PAD;
            lengths int32, without EOS; residual what is left, in the labels' unit (int64, or float64 with a unit). 0 is EOS alone.

        Raises:
            TypeError, ValueError: labels that are NaN, negative, not whole, too large, or that cannot be written, or not in T
                tokens (the index of the first, and how many); other arguments out of range.

        Example:
            >>> ValueVocabulary([1, 1000]).encode([3002], max_tokens=6)[0].tolist()
            [[3, 3, 3, 2, 0]]
        """
        T, tolerance, threads = integer("max_tokens", max_tokens, least=2, most=2**31 - 1) - 1, _tolerance(tolerance), _threads(num_threads)
        kernels = _kernels("vocabulary_encode")
        y = _labels(labels, self.unit, threads, kernels)
        tokens, lengths, residual, fits = kernels.vocabulary_encode(y, self._values, tolerance, T, threads)
        if not fits:
            self._check_lengths(y, lengths, T)
        return arrays.like(labels, tokens, lengths, self._from_units(residual))

    def _check_lengths(self, y: NDArray[np.int64], lengths: NDArray[np.integer], T: int | None) -> None:
        """Raise for labels that cannot be written (a length of -1), or not in T tokens."""
        impossible = lengths < 0
        if impossible.any():
            i = int(impossible.argmax())
            what = f"sums of the values to the tolerance; the smallest is {self._values[-1]}"
            raise ValueError(f"labels: expected {what}, got {y[i]} units at index {i} ({impossible.sum()} such of {y.size})")
        if T is not None and (too_long := lengths >= T).any():
            i = int(too_long.argmax())
            what = f"sequences of at most {T - 1} values and EOS (max_tokens={T + 1})"
            found = f"{y[i]} units, {lengths[i]} values, at index {i} ({too_long.sum()} such of {y.size})"
            raise ValueError(f"labels: expected {what}, got {found}")

    def covering(
        self, labels: ArrayLike, max_tokens: int = 20, tolerance: float = 0.001, *, num_threads: int | None = None
    ) -> "ValueVocabulary":
        """This vocabulary, with those powers of two added by which labels fit into ``max_tokens`` that did not.

        Quantiles of residuals leave gaps where labels have few distinct values: what is left of a label may be many times the largest
        value below it. With all powers of two a greedy step halves it at least: ten values reach a tolerance of 0.001.

        Args:
            labels, max_tokens, tolerance, num_threads: as for `encode`.

        Returns:
            A `ValueVocabulary`: the same one where all labels fit already.

        Raises:
            TypeError, ValueError: as `encode`; labels that do not fit with all powers of two either.

        Example:
            >>> ValueVocabulary([1, 1000]).covering([26, 3002], max_tokens=6).values.tolist()
            [1000, 16, 8, 2, 1]
        """
        T, tolerance, threads = integer("max_tokens", max_tokens, least=2, most=2**31 - 1) - 1, _tolerance(tolerance), _threads(num_threads)
        usage = _kernels("vocabulary_usage").vocabulary_usage
        y = _labels(labels, self.unit, threads, _kernels("vocabulary_usage"))

        def too_long(values: NDArray[np.int64]) -> NDArray[np.bool_]:
            lengths = usage(y, values, tolerance, threads)[1]
            return np.asarray((lengths < 0) | (lengths >= T))

        values = self._values
        every = np.union1d(values, 2 ** np.arange(int(y.max(initial=1)).bit_length()))[::-1].copy()
        while (rest := too_long(values)).any():  # again: a value that one label needs may lengthen others
            counts, found, _ = usage(y[rest], every, tolerance, threads)
            lengths = np.zeros(y.size, np.int64)
            lengths[rest] = found
            self._check_lengths(y, lengths, T)
            values = np.union1d(values, every[counts > 0])[::-1].copy()
        return self if values is self._values else ValueVocabulary(values, unit=self.unit)

    def decode(self, tokens: Any) -> Any:
        """Sum the values of tokens.

        Args:
            tokens: integers ``[..., T]``; those after an EOS are ignored, special tokens count 0.

        Returns:
            ``[...]`` in the labels' unit: int64, or float64 with a unit.

        Raises:
            TypeError, ValueError: not integers; numbers that are not tokens of the vocabulary (the first).

        Example:
            >>> ValueVocabulary([1, 5, 20]).decode([[3, 4, 2, 4], [2, 0, 0, 0]]).tolist()
            [25, 0]
        """
        a = arrays.as_numpy("tokens", tokens, "[..., T]")
        if a.dtype.kind not in "iu":
            raise TypeError(f"tokens: expected integers, got {arrays.dtype_name(tokens, a)}")
        if a.ndim == 0:
            raise ValueError("tokens: expected shape [..., T], got []")
        outside = (a < 0) | (a >= self.size)
        if outside.any():
            i = tuple(map(int, np.unravel_index(outside.argmax(), a.shape)))
            raise ValueError(f"tokens: expected 0 to {self.size - 1}, got {a[i]} at index {list(i)}")
        before_eos = np.cumsum(a == EOS, axis=-1) == 0
        values = np.where(before_eos, np.concatenate((np.zeros(FIRST_VALUE, np.int64), self._values))[a], 0)
        if a.shape[-1] * int(self._values[0]) >= 2**63:
            wraps = (values.cumsum(-1) < 0).any(-1)  # where a sum of numbers of at least 0 first exceeds int64, it is negative
            if wraps.any():
                i = tuple(map(int, np.unravel_index(wraps.argmax(), wraps.shape)))
                raise ValueError(f"tokens: expected sums below 2^63 units, got {sum(values[i].tolist())} at index {list(i)}")
        return arrays.like(tokens, self._from_units(values.sum(-1)))[0]

    def report(self, labels: ArrayLike, tolerance: float = 0.001, *, num_threads: int | None = None) -> "VocabularyReport":
        """How the vocabulary writes these labels: how often each value is used, lengths of the sequences, errors.

        Args:
            labels, tolerance, num_threads: as for `encode`; sequences may have any length.

        Returns:
            `VocabularyReport`.

        Raises:
            TypeError, ValueError: as `encode`.

        Example:
            >>> r = ValueVocabulary([1, 5, 20]).report([47, 0, 5])
            >>> r.longest, r.counts.tolist(), r.largest_error
            (5, [2, 2, 2], 0.0)
        """
        tolerance, threads, kernels = _tolerance(tolerance), _threads(num_threads), _kernels("vocabulary_usage")
        y = _labels(labels, self.unit, threads, kernels)
        counts, lengths, residual = kernels.vocabulary_usage(y, self._values, tolerance, threads)
        self._check_lengths(y, lengths, None)
        error = residual / np.maximum(y, 1)
        labels_of_length = np.bincount(lengths[lengths < _MAX_COUNTED_LENGTH]) if y.size else np.zeros(1, np.int64)
        return VocabularyReport(
            labels=y.size,
            values=self._from_units(self._values),
            counts=counts,
            lengths=labels_of_length,
            longest=int(lengths.max(initial=0)),
            mean_length=float(lengths.mean()) if y.size else 0.0,
            largest_error=float(error.max(initial=0.0)),
            mean_error=float(error.mean()) if y.size else 0.0,
        )

    def save(self, path: str | Path) -> None:
        """Write JSON, for `load`."""
        Path(path).write_text(json.dumps({"format": 1, "values": self._values.tolist(), "unit": self.unit}) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "ValueVocabulary":
        """Read a vocabulary that `save` has written.

        Raises:
            ValueError: not such a file.
        """
        try:
            content = json.loads(Path(path).read_text())
            if content["format"] != 1:
                raise ValueError(f"format {content['format']}")
            return cls(np.array(content["values"]), unit=content["unit"])
        except (ArithmeticError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"path: expected a vocabulary saved by this class, got {path} ({type(error).__name__}: {error})") from None

    def _from_units(self, n: NDArray[np.int64]) -> NDArray[Any]:
        if self.unit is None:
            return n
        scale = _units_in_one(self.unit)
        return n / scale if scale.is_integer() else n * self.unit


@dataclass(frozen=True)
class VocabularyReport:
    """What `ValueVocabulary.report` found; values and counts from the largest value down."""

    labels: int
    values: NDArray[Any]  # [V - 3], in the labels' unit
    counts: NDArray[np.int64]  # [V - 3]: how often each is used
    lengths: NDArray[np.int64]  # labels with 0, 1, 2, ... values; those with 1024 and more are left out
    longest: int  # without EOS
    mean_length: float
    largest_error: float  # residual over label; for a label of 0 it is 0
    mean_error: float

    def __str__(self) -> str:
        width = max(len(f"{v:g}") for v in self.values)
        share = self.counts / max(1, self.counts.sum())
        rows = [f"{v:>{width}g} {n:>12} {s:7.2%}" for v, n, s in zip(self.values, self.counts, share, strict=True)]
        head = f"{self.labels} labels, {len(self.values)} values; sequences of {self.mean_length:.2f} values, at most {self.longest}"
        return "\n".join([head, f"left of a label: {self.mean_error:.3g} on average, at most {self.largest_error:.3g}", *rows])

    def plot(self, path: str | Path | None = None) -> Any:
        """Bars of the values' frequencies and of the lengths: a matplotlib figure, saved if there is a path.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("plot needs matplotlib: pip install matplotlib") from error
        figure = Figure(figsize=(9, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.bar(np.arange(len(self.counts)), self.counts)
        left.set_xlabel("value, largest first")
        left.set_ylabel("times used")
        right.bar(np.arange(len(self.lengths)), self.lengths)
        right.set_xlabel("values a label")
        right.set_ylabel("labels")
        if path is not None:
            figure.savefig(path)
        return figure


def _unit(unit: Any) -> float | None:
    if unit is None:
        return None
    u = real("unit", unit, finite=False)
    if not (0 < u < math.inf and 1 / u < math.inf):
        raise ValueError(f"unit: expected a finite number above 0, got {unit}")
    return u


def _units_in_one(unit: float) -> float:
    """1000 for 0.001, which as a float is not quite a thousandth."""
    scale = 1 / unit
    return float(round(scale)) if scale >= 1 and abs(scale - round(scale)) <= 1e-12 * scale else scale


def _tolerance(tolerance: Any) -> float:
    t = real("tolerance", tolerance, finite=False)
    if not 0 <= t < 1:
        raise ValueError(f"tolerance: expected a number in [0, 1), got {tolerance}")
    return t


def _labels(labels: Any, unit: float | None, threads: int, kernels: Any, name: str = "labels") -> NDArray[np.int64]:
    """Labels [N] as whole numbers of units."""
    a = arrays.numbers(name, labels, nan=True, boolean=False)
    if a.dtype.kind in "iu" and unit is None:
        if a.size and (a.min() < 0 or a.max() > _MAX_LABEL):
            _reject(name, a, (a < 0) | (a > _MAX_LABEL), "0 to 2^53")
        return arrays.aligned(a, np.int64)
    x = arrays.aligned(a, np.float32 if a.dtype in (np.float16, np.float32) else np.float64)
    scale = 1.0 if unit is None else _units_in_one(unit)
    y, first_bad = kernels.to_units(x, scale, 0.0 if unit is None else 0.5, threads)
    if first_bad >= 0:
        with np.errstate(invalid="ignore", over="ignore"):
            n = x.astype(np.float64) * scale
            _reject(name, a, np.isnan(n), "no NaN")
            _reject(name, a, n < 0, "0 or more")
            _reject(name, a, n > _MAX_LABEL, "at most 2^53 units")
            _reject(name, a, n != np.rint(n), "whole numbers; with unit= labels are rounded to it")
    return np.asarray(y)


def _reject(name: str, labels: NDArray[Any], bad: NDArray[np.bool_], expected: str) -> None:
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(f"{name}: expected {expected}, got {labels[i]} at index {i} ({bad.sum()} such of {labels.size})")


def _largest(largest: Any, unit: float | None) -> int:
    """In units, at least 1."""
    largest = python_scalar(largest)
    is_number = not (isinstance(largest, list | tuple) or arrays.is_tensor(largest)) and np.ndim(largest) == 0
    y = _labels([largest] if is_number else largest, _unit(unit), 1, _kernels("vocabulary_fit"), "largest")
    if not y.size:
        raise ValueError("largest: expected a number, or at least one label, got none")
    return max(1, int(y.max()))

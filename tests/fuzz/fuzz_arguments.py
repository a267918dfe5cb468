"""Hostile arguments: what a right call of a function may look like, drawn by hypothesis, and what makes it a wrong one.

A spec says what one argument is; `Draw` holds what the arguments of one call share: sizes by letter, the dtype, a generator. Few
choices are hypothesis' own (sizes, dtypes, kinds of values, layouts), so that examples are cheap and shrink to small cases.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

try:
    import pyarrow
except ImportError:
    pyarrow = None

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
ROWS = (1, 0, 2, 3, 7, 8, 9, 15, 16, 17, 33, 127, 128, 129)
SIZES = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17)
KINDS = ("normal", "ties", "zeros", "tiny", "huge", "special")
LAYOUTS = ("contiguous", "transposed", "sliced", "offset", "expanded")


class Draw:
    """One call's shared choices. Letters are drawn when first used; `B`, rows, may be 0."""

    def __init__(self, data: Any, *, sizes: dict[str, Any], dtypes: tuple[torch.dtype, ...], kinds: tuple[str, ...]) -> None:
        self.choose = lambda *options: data.draw(st.sampled_from(options))
        self.integer = lambda low, high: data.draw(st.integers(low, high))
        self.random = np.random.default_rng(self.integer(0, 2**32 - 1))
        self.dtype: torch.dtype = self.choose(*dtypes)
        self.kinds = kinds
        self.pools, self.sizes, self.forms = sizes, {}, {}
        self.row_axes: dict[str, int] = {}  # of the arguments that have rows: where
        self.plain: dict[str, list[Any]] = {}  # columns as exact Python numbers

    def size(self, letter: str) -> int:
        if letter.isdecimal():
            return int(letter)
        if letter not in self.sizes:
            pool = self.pools.get(letter, ROWS if letter == "B" else SIZES)
            if self.sizes.get("B", 0) > 100:  # small in total
                pool = tuple(n for n in pool if n < 10) or pool[:1]
            self.sizes[letter] = self.choose(*pool)
        return self.sizes[letter]

    def form(self, forms: str, group: str) -> list[str]:
        """One of the alternatives "B K | K", the same for all arguments of a group."""
        alternatives = [form.split() for form in forms.split("|")]
        if len(alternatives) == 1:
            return alternatives[0]
        at = self.forms.setdefault(group, self.integer(0, 11))
        return alternatives[at % len(alternatives)]

    def values(self, shape: tuple[int, ...], dtype: torch.dtype, kinds: tuple[str, ...] | None = None) -> np.ndarray:
        info, kind = torch.finfo(dtype), self.choose(*(kinds or self.kinds))
        x = self.random.standard_normal(shape)
        if kind == "ties":
            return np.round(2 * x) / 2
        if kind == "zeros":
            return np.copysign(0.0, x)
        if kind == "tiny":
            return x * info.tiny * 4
        if kind == "huge":
            return x * min(1e25, info.max / 8)
        if kind == "special":
            special = [0.0, -0.0, info.smallest_normal / 4, info.max, -info.max, np.inf, -np.inf, np.nan, 1.0, min(1e25, info.max)]
            return np.where(self.random.random(shape) < 0.2, self.random.choice(special, shape), x)
        return x

    def laid_out(self, t: Tensor) -> Tensor:
        """The same values in memory of any kind; `expanded` repeats the first row."""
        layout = self.choose(*LAYOUTS)
        if layout == "transposed" and t.dim() > 1:
            return t.transpose(0, -1).contiguous().transpose(0, -1)
        if layout == "sliced" and t.dim():
            wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), torch.nan).to(t.dtype)
            wide[..., 1::2] = t
            return wide[..., 1::2]
        if layout == "offset":
            flat = torch.cat((t.new_zeros(1), t.reshape(-1)))[1:]
            return flat.view(t.shape)
        if layout == "expanded" and t.dim() and t.shape[0]:
            return t[:1].expand(t.shape)
        return t


class Spec:
    """One argument. `draw` gives it, and notes in `Draw.row_axes` where its rows are."""

    def draw(self, name: str, d: Draw) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Floats(Spec):
    """A tensor of the call's dtype, one letter per dimension. `limit` maps drawn values into what is allowed."""

    forms: str
    limit: Callable[[np.ndarray], np.ndarray] | None = None
    group: str = ""
    kinds: tuple[str, ...] | None = None
    number: bool = False  # or a Python number
    optional: bool = False
    wider: bool = False  # or the dtype of the computation

    def draw(self, name: str, d: Draw) -> Any:
        if self.optional and d.choose(False, True):
            return None
        letters = d.form(self.forms, self.group or name)
        shape = tuple(d.size(letter) for letter in letters)
        if self.number and d.choose(False, True):
            x = self._limited(d.values((), torch.float32, self.kinds))
            return float(x)
        if "B" in letters:
            d.row_axes[name] = letters.index("B")
        dtype = torch.promote_types(d.dtype, torch.float32) if self.wider and d.choose(False, True) else d.dtype
        x = self._limited(d.values(shape, dtype, self.kinds))
        return d.laid_out(torch.from_numpy(np.ascontiguousarray(x)).to(dtype).view(shape))

    def _limited(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x if self.limit is None else self.limit(x))


def at_least_zero(x: np.ndarray) -> np.ndarray:
    return np.abs(x)


def share(x: np.ndarray) -> np.ndarray:
    """In (0, 1], also at its ends; NaN stays."""
    with np.errstate(invalid="ignore", over="ignore"):
        inside = np.clip(np.abs(x) / (1 + np.abs(x)), 1e-3, 1.0)
    return np.where(np.isnan(x), x, np.where(np.isinf(x), 1.0, inside))


def time(x: np.ndarray) -> np.ndarray:
    s = share(x)
    return np.where(x == 0, 0.0, s)


def ascending(x: np.ndarray) -> np.ndarray:
    return np.sort(x, axis=-1)


@dataclass(frozen=True)
class Level(Spec):
    """alpha_bar, or a time: a number, or a tensor that broadcasts right-aligned to the rows of `x_t`."""

    forms: str = "B | B K"
    group: str = "rows"
    limit: Callable[[np.ndarray], np.ndarray] = share
    numbers: tuple[float, ...] = (0.5, 1.0, 0.999, 1e-4, 0.25)

    def draw(self, name: str, d: Draw) -> Any:
        if d.choose(False, True):
            return d.choose(*self.numbers)
        letters = d.form(self.forms, self.group)
        if len(letters) == 2 and d.choose(False, True):
            letters = d.choose(["B", "1"], ["K"], ["1", "K"])
        if letters[0] == "B":
            d.row_axes[name] = 0
        dtype = d.choose(d.dtype, torch.float32, torch.float64)
        shape = tuple(d.size(letter) for letter in letters)
        return d.laid_out(torch.from_numpy(np.ascontiguousarray(self.limit(d.values(shape, torch.float32)))).to(dtype).view(shape))


@dataclass(frozen=True)
class Number(Spec):
    """One of some Python or NumPy numbers."""

    options: tuple[Any, ...]

    def draw(self, name: str, d: Draw) -> Any:
        return d.choose(*self.options)


Choice = Number
REAL = Number((0.5, 0, 1, -2.5, 1e-30, 1e25, np.float32(0.25), np.int64(3)))
FLAG = Number((False, True, np.bool_(True)))
SEED = Number((0, 1, -1, 2**63, 2**64 - 1, 2**70, np.int32(7)))
THREADS = Number((None, 1, 2, 3))


@dataclass(frozen=True)
class Ids(Spec):
    """Integers [B], of any type and container, any values unless `high`."""

    optional: bool = True
    low: int = -(2**63)
    high: int = 2**63 - 1
    letters: str = "B"

    def draw(self, name: str, d: Draw) -> Any:
        if self.optional and d.choose(False, True):
            return None
        shape = tuple(d.size(letter) for letter in self.letters.split())
        d.row_axes[name] = 0
        dtype = d.choose(np.int64, np.int32, np.uint8, np.int16)
        info = np.iinfo(dtype)
        low, high = max(self.low, info.min), min(self.high, info.max)
        small = d.choose(True, False)
        x = d.random.integers(max(low, -3) if small else low, min(high, 3) if small else high, shape, dtype, endpoint=True)
        kind = d.choose("tensor", "array", "list", "reversed")
        if kind == "tensor":
            return torch.from_numpy(x)
        if kind == "reversed":
            return x[::-1]
        return x.tolist() if kind == "list" else x


_WIDE = (np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.uint64, np.bool_)


@dataclass(frozen=True)
class Column(Spec):
    """Numbers [B] of the data side, without NaN: any dtype, container, byte order and stride; `d.plain` has them exactly."""

    dtypes: tuple[Any, ...] = _WIDE
    infinite: bool = False
    low: float = -math.inf
    high: float = math.inf
    letter: str = "B"
    optional: bool = False
    map: Callable[[np.ndarray], np.ndarray] | None = None

    def draw(self, name: str, d: Draw) -> Any:
        if self.optional and d.choose(False, True):
            return None
        if self.letter == "B":
            d.row_axes[name] = 0
        dtype, n = np.dtype(d.choose(*self.dtypes)), d.size(self.letter)
        a = self._floats(d, n, dtype) if dtype.kind == "f" else self._integers(d, n, dtype)
        a = a if self.map is None else self.map(a).astype(dtype)
        d.plain[name] = a.tolist()
        return contained(a, d)

    def _floats(self, d: Draw, n: int, dtype: np.dtype) -> np.ndarray:
        kind, x = d.choose("normal", "ties", "zeros", "tiny", "huge", "special"), d.random.standard_normal(n)
        info = np.finfo(dtype)
        with np.errstate(over="ignore"):
            if kind == "ties":
                x = np.round(2 * x) / 2
            elif kind in ("zeros", "tiny"):
                x = np.copysign(0.0, x) if kind == "zeros" else x * float(info.tiny)
            elif kind == "huge":
                x = x * float(info.max) / 8
            elif kind == "special":
                special = [0.0, -0.0, float(info.smallest_subnormal), float(info.max), -float(info.max), 1.0, 1 + float(info.eps)]
                x = np.where(d.random.random(n) < 0.3, d.random.choice(special + [np.inf, -np.inf] * self.infinite, n), x)
            most = math.inf if self.infinite else float(info.max)
            return np.clip(x, max(self.low, -most), min(self.high, most)).astype(dtype)

    def _integers(self, d: Draw, n: int, dtype: np.dtype) -> np.ndarray:
        if dtype.kind == "b":
            return d.random.random(n) < 0.5
        info = np.iinfo(dtype)
        low, high = int(max(self.low, info.min)), int(min(self.high, info.max))
        if d.choose(True, False):
            low, high = max(low, -5 if low < 0 else low), min(high, 9)
        return d.random.integers(low, high, n, dtype, endpoint=True)


def contained(a: np.ndarray, d: Draw) -> Any:
    """The same numbers in a container of any kind."""
    kind = d.choose("array", "list", "reversed", "swapped", "sliced", "read-only", "tensor", "arrow", "0-stride")
    if kind == "list":
        return a.tolist() if a.dtype != np.float16 else a
    if kind == "reversed":
        return np.ascontiguousarray(a[::-1])[::-1]
    if kind == "swapped":
        return a.astype(a.dtype.newbyteorder("S"))
    if kind == "sliced":
        return np.repeat(a, 2)[::2]
    if kind == "read-only":
        a = a.copy()
        a.flags.writeable = False
    if kind == "0-stride" and len(set(a.tolist())) == 1:
        return np.broadcast_to(a[:1], a.shape)
    if kind == "tensor":
        return torch.from_numpy(a.copy())
    if kind == "arrow" and pyarrow is not None:
        return pyarrow.array(a)
    return a


@dataclass(frozen=True)
class Mask(Spec):
    letters: str

    def draw(self, name: str, d: Draw) -> Any:
        letters = self.letters.split()
        d.row_axes[name] = letters.index("B")
        return d.laid_out(torch.from_numpy(d.random.random(tuple(map(d.size, letters))) < d.choose(0.5, 0.0, 1.0)))


@dataclass(frozen=True)
class Made(Spec):
    """Whatever a function of the call's shared choices gives."""

    make: Callable[[Draw], Any]
    rows: int | None = None

    def draw(self, name: str, d: Draw) -> Any:
        if self.rows is not None:
            d.row_axes[name] = self.rows
        return self.make(d)


# ------------------------------------------------------------------------------------------------ wrong arguments


class Text(str):
    __slots__ = ()


WRONG_OBJECTS: tuple[Any, ...] = (
    None, "text", b"bytes", object(), {}, [], [None], ["a"], [[1.0], [2.0, 3.0]], (), 1.5, -1, 0, 1, 2**70, -(2**70), True, 1j,
    float("nan"), float("inf"), -1.0, np.float64(2.5), np.array("a"), np.array([1, "b"], object), np.array([1 + 2j]),
    np.zeros((2, 2, 2)), np.array(["2020-01-01"], "datetime64[D]"), np.zeros(0), np.zeros(3, "M8[s]"), set, Text("x"),
)  # fmt: skip


def wrong_tensors(t: Tensor) -> list[Callable[[], Any]]:
    """Tensors that are nearly t: of another dtype, layout, device, shape or with bad values."""
    return [
        lambda: t.to(torch.int64), lambda: t.to(torch.complex64), lambda: t != 0, lambda: t.detach().to_sparse(), lambda: t.to("meta"),
        lambda: t.double() if t.dtype != torch.float64 else t.float(), lambda: t.to(torch.float16), lambda: t[None], lambda: t[..., None],
        lambda: t[:-1] if t.dim() else t, lambda: t[..., :0] if t.dim() else t, lambda: torch.cat((t, t)) if t.dim() else t[None],
        lambda: t.reshape(-1), lambda: t.new_zeros(()), lambda: -t.abs() - 1 if t.dtype.is_floating_point else -t.long() - 1,
        lambda: t + 2 if t.dtype.is_floating_point else t, lambda: torch.full_like(t, torch.nan) if t.dtype.is_floating_point else t,
        lambda: torch.full_like(t, torch.inf) if t.dtype.is_floating_point else t, lambda: t.float().numpy(), lambda: t.tolist(),
        lambda: torch.nn.Parameter(t) if t.dtype.is_floating_point else t, lambda: torch._neg_view(t) if t.dtype != torch.bool else t,
        lambda: t.to(torch.float8_e5m2) if t.dtype.is_floating_point else t.to(torch.uint16), lambda: t.to(torch.uint64).view(t.shape),
        lambda: torch.empty(0), lambda: t.detach().to_sparse_csr() if t.dim() == 2 else t, lambda: t.expand(2, *t.shape),
        lambda: torch.quantize_per_tensor(t.detach().float(), 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([t.detach().float()] * 2),
    ]  # fmt: skip


def wrong_arrays(a: np.ndarray) -> list[Callable[[], Any]]:
    return [
        lambda: a.astype(np.complex128), lambda: a.astype(str), lambda: a.astype(object), lambda: a[None], lambda: a[..., None],
        lambda: a[:-1], lambda: np.concatenate((a, a)), lambda: a[:0], lambda: a.astype("f4") + np.float32(np.nan), lambda: -a - 1,
        lambda: a.astype("f8") + 0.5, lambda: a * np.inf, lambda: a.astype("M8[s]"), lambda: a.astype("V8"),
        lambda: a.astype(np.longdouble),
        lambda: np.ma.masked_array(a, mask=np.ones(a.shape, bool)), lambda: np.zeros(()), lambda: a.astype("u8"),
    ]  # fmt: skip


def wrong(value: Any, d: Draw) -> Any:
    """Something else in the place of `value`: it may still be right, as a bool is a number for NumPy."""
    special = wrong_tensors(value) if isinstance(value, Tensor) else wrong_arrays(value) if isinstance(value, np.ndarray) else []
    at = d.integer(0, len(WRONG_OBJECTS) + 2 * len(special) - 1)
    if at < len(WRONG_OBJECTS):
        return WRONG_OBJECTS[at]
    try:
        with np.errstate(all="ignore"):
            return special[(at - len(WRONG_OBJECTS)) % len(special)]()
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return None  # no such variant of this one


def snapshot(x: Any) -> Any:
    """A copy of an argument's values, to see whether a call has written into it."""
    if isinstance(x, Tensor):
        return None if x.device.type == "meta" or x.layout != torch.strided or x.is_nested or x.is_quantized else x.detach().clone()
    return copy.deepcopy(x) if isinstance(x, np.ndarray | list | tuple) else None

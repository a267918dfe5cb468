"""Checks of numbers: integers, sizes, seeds, reals. NumPy's scalars, and arrays and tensors of no dimension, count as what they
hold; bools are no numbers, and neither is a missing value (masked, null, NA)."""

import math
import operator
import os
import sys
from typing import Any

import numpy as np

__all__ = ["boolean", "integer", "num_threads", "number", "one_of", "positive_sizes", "python_scalar", "real", "seed", "stream_step"]


_PLAIN = {bool, float, int, str}
_NO_NUMBERS = (bool, complex, str, bytes, np.timedelta64)


def integer(name: str, x: Any, *, least: int | None = None, most: int | None = None) -> int:
    """``x`` as an int in ``[least, most]``."""
    n: int | None
    n = x if type(x) is int or type(x).__name__ == "SymInt" else _index(python_scalar(x))  # the size of a traced tensor stays symbolic
    if n is None:
        raise TypeError(f"{name}: expected an int, got {_kind(x)}")
    if (least is not None and n < least) or (most is not None and n > most):
        raise ValueError(f"{name}: expected {_range(least, most)}, got {n}")
    return n


def positive_sizes(**sizes: Any) -> None:
    """Whole numbers of at least 1."""
    for name, x in sizes.items():
        try:
            size = x if type(x) is int else 0 if hasattr(x, "as_py") else operator.index(x)  # callers compute with x itself
        except TypeError:
            size = 0
        if size < 1 or isinstance(x, bool):
            raise ValueError(f"{name}: expected a whole number of at least 1, got {x!r}")


def number(name: str, x: Any, form: str = "a number") -> float:
    """``x`` as any float, NaN included."""
    if type(x) is float:
        return x
    value = python_scalar(x)
    if isinstance(value, _NO_NUMBERS) or not hasattr(value, "__float__") or getattr(value, "ndim", None):
        raise TypeError(f"{name}: expected {form}, got {_kind(x)}")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:  # torch takes no larger ones as numbers
        raise ValueError(f"{name}: expected a number of at most 64 bits, got {value.bit_length()}")
    try:
        return float(value)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:  # a fraction of large integers; complex and meta tensors
        kind = ValueError if isinstance(error, OverflowError) else TypeError
        raise kind(f"{name}: expected {form}, got {_kind(x)} ({error})") from None


def boolean(name: str, x: Any) -> bool:
    """``x``, True or False."""
    value = x if x is True or x is False else python_scalar(x)
    if isinstance(value, bool):
        return value
    raise TypeError(f"{name}: expected a bool, got {_kind(x)}")


def python_scalar(x: Any) -> Any:
    """Python's number or text of a scalar of NumPy, Arrow or an array without dimensions; None for a masked one; else `x` itself."""
    if type(x) in _PLAIN:
        return x
    is_array = isinstance(x, np.ndarray)
    if is_array and np.ma.is_masked(x):
        return None
    if isinstance(x, np.generic) or (is_array and not x.ndim):
        value = x.item()
        return x if isinstance(value, np.generic) or x.dtype.kind in "mM" else value  # a long double stays one
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return x if x.dim() or x.is_complex() or x.is_meta else x.item()
    return x.as_py() if hasattr(x, "as_py") else x  # of Arrow


def _index(x: Any) -> int | None:
    """A whole number as an int; None for anything else."""
    try:
        return None if isinstance(x, bool) else operator.index(x)
    except (RuntimeError, TypeError):
        return None


def _kind(x: Any) -> str:
    return "a missing value" if x is not None and python_scalar(x) is None else type(x).__name__


def real(name: str, x: Any, *, least: float = -math.inf, most: float = math.inf, finite: bool = True) -> float:
    """``x`` as a float in ``[least, most]``; no NaN, and no infinity unless ``finite=False``."""
    v = number(name, x)
    if not least <= v <= most or (finite and not -math.inf < v < math.inf):
        what = "a finite number" if finite else "a number"
        bounds = "" if least == -math.inf and most == math.inf else f" of {_range(_finite(least), _finite(most))}"
        raise ValueError(f"{name}: expected {what}{bounds}, got {x}")
    return v


def one_of(name: str, x: Any, allowed: tuple[Any, ...]) -> Any:
    """The one of ``allowed`` that ``x`` equals."""
    for choice in allowed:
        if x is choice:
            return choice
    value = python_scalar(x)
    for choice in allowed:
        if choice is not None and isinstance(value, type(choice)) and value == choice:
            return choice
    *first, last = map(repr, allowed)
    raise ValueError(f"{name}: expected {', '.join(first)}{' or ' * bool(first)}{last}, got {x!r}")


def seed(x: Any, name: str = "seed") -> int:
    """Any integer, mod 2^64, as the dispatcher's int64."""
    n = integer(name, x)
    return n if -(2**63) <= n < 2**63 else (n + 2**63) % 2**64 - 2**63


def num_threads(n: Any) -> int:
    """Threads of a data-side kernel: `n`, or else ``ORDKERNELS_NUM_THREADS``, or else every core that this process may use."""
    if n is None:
        text = os.environ.get("ORDKERNELS_NUM_THREADS", "")
        if not text:
            return len(os.sched_getaffinity(0))
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"ORDKERNELS_NUM_THREADS: expected a whole number from 1 up, got {text!r}")
        n = int(text)
    return min(integer("num_threads", n, least=1), 1024)


def stream_step(x: Any, name: str = "step") -> int:
    """The step of a stream of random numbers."""
    n = integer(name, x)
    if not 0 <= n < 2**32:
        raise ValueError(f"{name}: expected 0 to 2^32 - 1, got {n}")
    return n


def _range(least: float | None, most: float | None) -> str:
    if most is None:
        return f"at least {least}"
    return f"at most {most}" if least is None else f"{least} to {most}"


def _finite(x: float) -> float | None:
    return None if math.isinf(x) else x

"""Checks of numbers: integers, sizes, seeds, reals. NumPy scalars count as numbers, bools do not."""

import math
import operator
import os
from typing import Any

__all__ = ["boolean", "integer", "num_threads", "number", "one_of", "positive_sizes", "real", "seed", "stream_step"]


def integer(name: str, x: Any, *, least: int | None = None, most: int | None = None) -> int:
    """``x`` as an int in ``[least, most]``."""
    if isinstance(x, bool):
        raise TypeError(f"{name}: expected an int, got bool")
    n: int
    if isinstance(x, int) or type(x).__name__ == "SymInt":  # the size of a traced tensor stays symbolic
        n = x
    else:
        try:
            n = operator.index(x)
        except TypeError:
            raise TypeError(f"{name}: expected an int, got {type(x).__name__}") from None
    if (least is not None and n < least) or (most is not None and n > most):
        raise ValueError(f"{name}: expected {_range(least, most)}, got {n}")
    return n


def positive_sizes(**sizes: Any) -> None:
    """Whole numbers of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int):
            try:
                size = operator.index(size)
            except TypeError:
                size = 0
        if size < 1:
            raise ValueError(f"{name}: expected a whole number of at least 1, got {sizes[name]!r}")


def number(name: str, x: Any, form: str = "a number") -> float:
    """``x`` as any float, NaN included."""
    if type(x) is float:
        return x
    if isinstance(x, bool | str | bytes) or not hasattr(x, "__float__") or getattr(x, "ndim", None):
        raise TypeError(f"{name}: expected {form}, got {type(x).__name__}")
    if isinstance(x, int) and not -(2**63) <= x < 2**64:  # torch takes no larger ones as numbers
        raise ValueError(f"{name}: expected a number of at most 64 bits, got {x.bit_length()}")
    return float(x)


def boolean(name: str, x: Any) -> bool:
    """``x``, True or False."""
    if isinstance(x, bool) or type(x).__name__ in ("bool_", "bool"):  # of NumPy too
        return bool(x)
    raise TypeError(f"{name}: expected a bool, got {type(x).__name__}")


def real(name: str, x: Any, *, least: float = -math.inf, most: float = math.inf, finite: bool = True) -> float:
    """``x`` as a float in ``[least, most]``; no NaN, and no infinity unless ``finite=False``."""
    v = number(name, x)
    if not least <= v <= most or (finite and not -math.inf < v < math.inf):
        what = "a finite number" if finite else "a number"
        bounds = "" if least == -math.inf and most == math.inf else f" of {_range(_finite(least), _finite(most))}"
        raise ValueError(f"{name}: expected {what}{bounds}, got {x}")
    return v


def one_of(name: str, x: Any, allowed: tuple[Any, ...]) -> Any:
    """``x`` if it is one of ``allowed``."""
    if x not in allowed:
        *first, last = map(repr, allowed)
        raise ValueError(f"{name}: expected {', '.join(first)}{' or ' * bool(first)}{last}, got {x!r}")
    return x


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

"""What the quantiles share: their arguments as the contiguous arrays of the kernels, and results in the caller's kind of array."""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation import arrays

_FLOAT16 = (np.dtype("<f2"), np.dtype(">f2"))


def as_values(values: Any) -> NDArray[Any]:
    """Values [N] as float32 or float64."""
    a = arrays.numbers("values", values, boolean=False)
    return arrays.aligned(a, np.float32 if a.dtype in (np.float16, np.float32) else np.float64)


def restore(values: Any, out: NDArray[Any]) -> Any:
    """The result in the dtype of the caller's values (float64 for integers), a tensor on their device if they are one."""
    if arrays.is_tensor(values):
        torch = sys.modules["torch"]
        return torch.from_numpy(out).to(values.device, values.dtype if values.is_floating_point() else torch.float64)
    return out.astype(np.float16) if getattr(values, "dtype", None) in _FLOAT16 else out


def as_offsets(offsets: Any, n: int) -> NDArray[np.int64]:
    a = arrays.integers("offsets", offsets, letter="G+1")
    if a.size == 0:
        raise ValueError("offsets: expected shape [G+1], at least [1], got [0]")
    if a[0] != 0:
        raise ValueError(f"offsets: expected 0 at index 0, got {a[0]}")
    down = a[1:] < a[:-1]
    if down.any():
        g = int(down.argmax()) + 1
        raise ValueError(f"offsets: expected no step down, got {a[g]} at index {g} after {a[g - 1]}")
    if a[-1] != n:
        raise ValueError(f"offsets: expected the number of values N = {n} at the end, got {a[-1]}")
    return a


def as_times(time: Any, n: int) -> NDArray[Any]:
    """Times as int64 or float64 of the same order."""
    a = arrays.vector("time", _in_utc(time), length=n, other="values")
    if a.dtype.kind in "mM":
        missing = np.isnat(a)
        if missing.any():
            raise ValueError(f"time: expected no NaT, got {missing.sum()} of {a.size}, the first at index {missing.argmax()}")
        return arrays.aligned(a).view(np.int64)
    if a.dtype.kind not in "iuf":
        raise TypeError(f"time: expected integers, floats or datetime64, got {arrays.dtype_name(time, a)}")
    arrays.reject_nan("time", a)
    ordered = arrays.same_order(a)
    return ordered.astype(np.int64 if ordered.dtype.kind == "i" else np.float64, copy=False)


def _in_utc(time: Any) -> Any:
    """A column of pandas with a time zone without it; its values as an array would be objects."""
    has_zone = getattr(getattr(time, "dtype", None), "tz", None) is not None
    return np.asarray(time, f"datetime64[{time.dtype.unit}]") if has_zone else time

"""Quantiles of ragged groups of values: how the past of a user or an item becomes a fixed number of features.

NumPy in, NumPy out; torch CPU tensors come back as tensors. No gradients, and no torch unless a tensor comes in.
"""

import os
import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._backend import OpInfo, host_choice, host_module, register
from .reference import quantiles as reference

__all__ = ["history_quantiles", "leave_one_out_quantiles", "segment_quantiles"]

_OPS = {name: register(OpInfo(name, host=True)) for name in __all__}


def _impl(op: str) -> Any:
    """The function that computes `op`: compiled, or the reference. The one place where that is chosen."""
    return getattr(reference if host_choice(_OPS[op]) == "reference" else host_module(), op)


def segment_quantiles(values: ArrayLike, offsets: ArrayLike, levels: ArrayLike, *, num_threads: int | None = None) -> Any:
    """Quantiles of every group of a ragged array, linearly interpolated as by numpy.quantile.

    ``out[g, l]`` is the value at position ``(n - 1) levels[l]`` of the n sorted ``values[offsets[g]:offsets[g + 1]]``.

    Args:
        values: ``[N]``, group after group. float32 and float64 keep their dtype (so do float16 and bfloat16, computed
            in float32), integers become float64. Infinities are values like any other; only strictly between -inf
            and inf there is no number, and the result is NaN.
        offsets: ``[G+1]`` integers, rising from 0 to N: where each group begins, and N.
        levels: ``[L]`` in [0, 1], in any order.
        num_threads: by default ``ORDKERNELS_NUM_THREADS``, or every core this process may use. It changes no result.

    Returns:
        ``[G, L]`` in the unit of values; NaN for an empty group. Workspace: under 1 MB a thread, and three times the
        values of its longest group where that has more than 1024.

    Raises:
        TypeError: dtypes that are not numbers, or not integers for offsets.
        ValueError: wrong shapes, levels outside [0, 1], offsets that do not rise from 0 to N, NaN among the values.

    Source: FlowTime (arXiv:2606.01352), the pattern encoding of users and items.

    Example:
        >>> segment_quantiles([3.0, 1.0, 2.0, 7.0], [0, 3, 3, 4], [0.25, 0.5])
        array([[1.5, 2. ],
               [nan, nan],
               [7. , 7. ]])
    """
    x, restore = _values(values)
    out = _impl("segment_quantiles")(x, _offsets(offsets, x.size), _levels(levels), _threads(num_threads))
    return restore(out)


def leave_one_out_quantiles(values: ArrayLike, offsets: ArrayLike, levels: ArrayLike, *, num_threads: int | None = None) -> Any:
    """Quantiles of every event's group without that event.

    ``out[i, l]`` is level l of ``values[offsets[g]:offsets[g + 1]]`` less ``values[i]``, g the group of i. It sees the
    future of an event: for data with times use `history_quantiles`.

    Args:
        values, offsets, levels, num_threads: as for `segment_quantiles`.

    Returns:
        ``[N, L]`` in the unit of values; NaN where an event is alone in its group.

    Raises:
        TypeError, ValueError: as `segment_quantiles`.

    Source: ours, beside FlowTime (arXiv:2606.01352), for data without times.

    Example:
        >>> leave_one_out_quantiles([3.0, 1.0, 2.0, 7.0], [0, 3, 4], [0.5])
        array([[1.5],
               [2.5],
               [2. ],
               [nan]])
    """
    x, restore = _values(values)
    out = _impl("leave_one_out_quantiles")(x, _offsets(offsets, x.size), _levels(levels), _threads(num_threads))
    return restore(out)


def history_quantiles(
    values: ArrayLike,
    group: ArrayLike,
    time: ArrayLike,
    levels: ArrayLike,
    min_events: int = 1,
    *,
    num_threads: int | None = None,
) -> Any:
    """Quantiles of every event's past: the events of its group at strictly earlier times.

    ``out[i, l]`` is level l of ``{values[j]: group[j] == group[i], time[j] < time[i]}``; events of one time see neither
    each other nor themselves. O(N (log N + L)).

    Args:
        values: ``[N]``, in any order, as for `segment_quantiles`.
        group: ``[N]`` integers: any ids.
        time: ``[N]`` integers, floats or datetime64; only their order counts. Infinities are times like any other.
        levels: ``[L]`` in [0, 1], in any order.
        min_events: at least 1; an event with a shorter past gets NaN.
        num_threads: as for `segment_quantiles`.

    Returns:
        ``[N, L]`` in the order of values, and in their unit. Workspace: up to 16 bytes an event (40 if the ids are spread
        over a range much wider than N), and for each thread about 50 bytes an event of its longest group (130 beyond 2048).

    Raises:
        TypeError: dtypes that are not numbers, or not integers for group and min_events.
        ValueError: wrong shapes, levels outside [0, 1], min_events below 1, NaN among the values or times.

    Source: FlowTime (arXiv:2606.01352), the pattern encoding; that a label is never in its own history is ours.

    Example:
        >>> history_quantiles([4.0, 8.0, 6.0, 1.0], [5, 5, 5, 9], [1, 3, 2, 1], [0.0, 0.5])
        array([[nan, nan],
               [ 4.,  5.],
               [ 4.,  4.],
               [nan, nan]])
    """
    x, restore = _values(values)
    g, t = _group(group), _time(time)
    for name, array in (("group", g), ("time", t)):
        if array.shape != x.shape:
            raise ValueError(f"{name}: expected shape [N] = [{x.size}], as values, got {list(array.shape)}")
    if isinstance(min_events, bool) or not isinstance(min_events, int | np.integer):
        raise TypeError(f"min_events: expected an integer, got {type(min_events).__name__}")
    if min_events < 1:
        raise ValueError(f"min_events: expected at least 1, got {min_events}")
    # A past is never longer than N: a larger minimum means the same, and fits any integer of the kernel's.
    least = min(int(min_events), x.size + 1)
    return restore(_impl("history_quantiles")(x, g, t, _levels(levels), least, _threads(num_threads)))


# Checks: public input to the contiguous arrays of the kernels.


def _array(name: str, x: Any, letters: str) -> NDArray[Any]:
    """A NumPy array of one dimension in this machine's byte order, of an array, a list or a torch CPU tensor."""
    if _is_tensor(x):
        if x.device.type != "cpu":
            raise TypeError(f"{name}: expected a NumPy array or a tensor on the CPU, got a tensor on {x.device}")
        if x.layout != sys.modules["torch"].strided:
            raise TypeError(f"{name}: expected a dense tensor, got {x.layout}")
        x = x.detach().resolve_neg()
        x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    try:
        a = np.asarray(x)
    except ValueError as error:  # ragged lists
        raise ValueError(f"{name}: expected shape [{letters}], got {type(x).__name__} ({error})") from None
    if a.ndim != 1:
        raise ValueError(f"{name}: expected shape [{letters}], got {list(a.shape)}")
    return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))


def _is_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")  # without torch imported there are no tensors
    return torch is not None and isinstance(x, torch.Tensor)


def _values(values: Any) -> tuple[NDArray[Any], Any]:
    """Values [N] as float32 or float64, and how to give a result back in the caller's kind of array."""
    a = _array("values", values, "N")
    if not (a.dtype.kind in "iu" or a.dtype in (np.float16, np.float32, np.float64)) and not _is_empty_list(values, a):
        raise TypeError(f"values: expected float16, float32, float64 or integers, got {_dtype(values, a)}")
    wide = np.float64 if a.dtype.kind in "iu" else np.float32 if a.dtype == np.float16 else a.dtype
    x = np.ascontiguousarray(a, wide)
    _reject_nan("values", x)
    if _is_tensor(values):
        torch = sys.modules["torch"]
        dtype = values.dtype if values.is_floating_point() else torch.float64
        return x, lambda out: torch.from_numpy(out).to(dtype)
    return x, lambda out: out.astype(a.dtype) if a.dtype == np.float16 else out


def _offsets(offsets: Any, n: int) -> NDArray[np.int64]:
    a = _integers("offsets", offsets, "G+1")
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


def _levels(levels: Any) -> NDArray[np.float64]:
    a = _array("levels", levels, "L")
    if a.dtype.kind not in "iuf":
        raise TypeError(f"levels: expected numbers, got {_dtype(levels, a)}")
    x = np.ascontiguousarray(a, np.float64)
    outside = ~((x >= 0) & (x <= 1))
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(f"levels: expected numbers in [0, 1], got {x[i]} at index {i}")
    return x


def _group(group: Any) -> NDArray[np.int64]:
    return _integers("group", group, "N")


def _time(time: Any) -> NDArray[Any]:
    """Times as int64 or float64 of the same order."""
    a = _array("time", time, "N")
    if a.dtype.kind in "mM":
        missing = np.isnat(a)
        if missing.any():
            raise ValueError(f"time: expected no NaT, got {missing.sum()} of {a.size}, the first at index {missing.argmax()}")
        return np.ascontiguousarray(a).view(np.int64)
    if a.dtype == np.uint64:
        return np.ascontiguousarray(a ^ np.uint64(1 << 63)).view(np.int64)
    if a.dtype.kind in "iu":
        return np.ascontiguousarray(a, np.int64)
    if a.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"time: expected integers, floats or datetime64, got {_dtype(time, a)}")
    t = np.ascontiguousarray(a, np.float64)
    _reject_nan("time", t)
    return t


def _integers(name: str, x: Any, letters: str) -> NDArray[np.int64]:
    a = _array(name, x, letters)
    if a.dtype.kind not in "iu" and not _is_empty_list(x, a):
        raise TypeError(f"{name}: expected integers, got {_dtype(x, a)}")
    if a.dtype == np.uint64:
        return np.ascontiguousarray(a).view(np.int64)  # one to one, which is all that ids need; offsets fail as negative
    return np.ascontiguousarray(a, np.int64)


def _is_empty_list(x: Any, a: NDArray[Any]) -> bool:
    return a.size == 0 and isinstance(x, list | tuple)  # NumPy calls it float64


def _dtype(x: Any, a: NDArray[Any]) -> str:
    return str(x.dtype) if hasattr(x, "dtype") else str(a.dtype)


def _reject_nan(name: str, x: NDArray[Any]) -> None:
    if x.size and np.isnan(x.min()):  # the minimum of anything with a NaN is NaN, and needs no array of its own
        bad = np.isnan(x)
        raise ValueError(f"{name}: expected no NaN, got {bad.sum()} of {x.size}, the first at index {bad.argmax()}")


def _threads(num_threads: int | None) -> int:
    if num_threads is None:
        text = os.environ.get("ORDKERNELS_NUM_THREADS", "")
        if not text:
            return len(os.sched_getaffinity(0))
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"ORDKERNELS_NUM_THREADS: expected a whole number from 1 up, got {text!r}")
        return min(int(text), 1024)
    if isinstance(num_threads, bool) or not isinstance(num_threads, int | np.integer):
        raise TypeError(f"num_threads: expected an integer or None, got {type(num_threads).__name__}")
    if num_threads < 1:
        raise ValueError(f"num_threads: expected at least 1, got {num_threads}")
    return min(int(num_threads), 1024)

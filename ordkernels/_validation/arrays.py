"""Checks of array arguments of the data side, and their conversion to what its kernels take. No torch at import.

Lists, NumPy arrays of any strides and byte order, columns of pandas, polars and pyarrow, and dense torch tensors on any device (their
values are copied to the CPU) are all taken; the result is a NumPy array in this machine's byte order. A missing value (masked, null,
NA, None) is refused as a NaN is.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "as_numpy", "as_tensor", "binnable", "common_float", "dtype_name", "edges", "integers", "is_beyond_fp64", "is_tensor", "levels",
    "like", "numbers", "reject_infinite", "reject_nan", "same_order", "vector", "weights",
]  # fmt: skip

Array = NDArray[Any]
_FLOATS = (np.float16, np.float32, np.float64, np.longdouble)


def is_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")  # without torch imported there are no tensors
    return torch is not None and isinstance(x, torch.Tensor)


def as_numpy(name: str, x: Any, form: str = "[N]") -> Array:
    """An array of any shape and dtype, without missing values; `form` is the shape that messages ask for."""
    if is_tensor(x):
        return _from_tensor(name, x)
    _reject_missing(name, _missing(x))
    try:
        a = np.asarray(x)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:  # ragged lists; lists of tensors with gradients
        kind = ValueError if isinstance(error, OverflowError | ValueError) else TypeError
        raise kind(f"{name}: expected shape {form}, got {type(x).__name__} ({error})") from None
    if a.dtype == object:
        a = _from_objects(name, x, a)
    elif a.dtype == np.float64 and not hasattr(x, "dtype"):
        a = _exact(name, x, a)
    return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))


def _from_tensor(name: str, t: Any) -> Array:
    torch = sys.modules["torch"]
    if t.layout != torch.strided or t.is_nested:
        raise TypeError(f"{name}: expected a dense tensor, got {'a nested one' if t.is_nested else t.layout}")
    if t.device.type == "meta":
        raise TypeError(f"{name}: expected a tensor with values, got a tensor on meta")
    t = t.detach().cpu().resolve_conj().resolve_neg()
    try:
        is_unknown = t.is_floating_point() and t.dtype not in (torch.float16, torch.float32, torch.float64)
        a: NDArray[Any] = (t.float() if is_unknown else t).numpy()  # NumPy has no bfloat16, and no floats of 8 bits
    except (RuntimeError, TypeError):
        raise TypeError(f"{name}: expected integers or floats of 16 to 64 bits, got {t.dtype}") from None
    return a


def _missing(x: Any) -> Any:
    """Where values are missing that a conversion to an array fills, as an array of bools; None where none can be."""
    if isinstance(x, np.ma.MaskedArray):
        return np.ma.getmaskarray(x)
    if hasattr(x, "null_count") and hasattr(x, "is_null"):  # pyarrow, polars
        return x.is_null()
    if hasattr(x, "isna") and not isinstance(getattr(x, "dtype", None), np.dtype):  # pandas: nullable, categorical, of Arrow; a frame
        return x.isna()
    return None


def _reject_missing(name: str, missing: Any) -> None:
    bad = np.asarray(missing if missing is not None else False, bool)
    if bad.any():
        raise ValueError(f"{name}: expected no NaN, got {bad.sum()} of {bad.size} missing, the first at index {bad.argmax()}")


def _from_objects(name: str, x: Any, a: Array) -> Array:
    """Python's and NumPy's numbers in the dtype that a list of them has; arrays of other objects as they are."""
    if a.ndim == 0 and not hasattr(x, "dtype"):
        raise TypeError(f"{name}: expected an array or a sequence of numbers, got {type(x).__name__}")
    _reject_missing(name, [v is None or type(v).__name__ == "NAType" for v in a.flat])
    values = a.tolist()
    if not all(isinstance(v, (int, float, np.number, np.bool_)) for v in a.flat):
        return a
    for v in a.flat:
        if isinstance(v, int) and not -(2**63) <= v < 2**64:
            raise ValueError(f"{name}: expected numbers of at most 64 bits, got {v}")
    converted = np.asarray(values)
    return _exact(name, values, converted) if converted.dtype == np.float64 else converted


def _exact(name: str, x: Any, a: Array) -> Array:
    """`a`, made of a list, whose whole numbers became floats where floats are beside them, or numbers on both sides of 2^63: ValueError
    for those that are rounded."""
    if not (a.size and (np.abs(a) >= 2.0**53).any()):
        return a
    values = np.array(x, object)
    if all(isinstance(v, (int, np.integer)) and v >= 0 for v in values.flat):
        return values.astype(np.uint64)
    for i, (v, rounded) in enumerate(zip(values.flat, a.flat, strict=True)):
        if isinstance(v, (int, np.integer)) and int(v) != int(rounded):
            raise ValueError(f"{name}: expected whole numbers that a float64 holds beside others, got {v} at index {i}")
    return a


def as_tensor(name: str, x: Any) -> Any:
    """A torch tensor of any shape: `x` itself if it is one, else the values of an array or a list, in its memory where torch takes it."""
    if is_tensor(x):
        return x
    a = as_numpy(name, x, "[...]")
    a = _narrowed(name, a) if a.dtype == np.longdouble else a
    if not a.flags.writeable or any(stride < 0 or stride % a.itemsize for stride in a.strides):
        a = a.copy()
    try:
        return sys.modules["torch"].from_numpy(a)
    except TypeError:
        raise TypeError(f"{name}: expected integers or floats of 16 to 64 bits, got {dtype_name(x, a)}") from None


def vector(name: str, x: Any, *, letter: str = "N", length: int | None = None, other: str = "y") -> Array:
    """An array of one dimension and any dtype; of `length`, which is that of the argument `other`, if one is given."""
    a = as_numpy(name, x, f"[{letter}]")
    if a.ndim != 1:
        raise ValueError(f"{name}: expected shape [{letter}], got {list(a.shape)}")
    if length is not None and len(a) != length:
        raise ValueError(f"{name}: expected shape [{letter}] = [{length}], as {other}, got [{len(a)}]")
    return a


def numbers(
    name: str, x: Any, *, letter: str = "N", length: int | None = None, other: str = "y", nan: bool = False, boolean: bool = True
) -> Array:
    """A vector of integers, floats, or booleans, without NaN unless `nan`. A long double only where float64 would round it."""
    a = vector(name, x, letter=letter, length=length, other=other)
    if not (a.dtype.kind in ("iub" if boolean else "iu") or a.dtype in _FLOATS):
        raise TypeError(f"{name}: expected integers or floats of 16 to 64 bits, got {dtype_name(x, a)}")
    if not nan:
        reject_nan(name, a)
    return _narrowed(name, a) if a.dtype == np.longdouble else a


def _narrowed(name: str, a: Array) -> Array:
    with np.errstate(over="ignore"):
        narrow = a.astype(np.float64)
    overflown = np.isfinite(a) & ~np.isfinite(narrow)
    if overflown.any():
        i = int(overflown.argmax())
        raise ValueError(f"{name}: expected numbers in the range of float64, got {a[i]!s} at index {i}")
    return narrow if ((narrow == a) | np.isnan(a)).all() else a


def integers(name: str, x: Any, *, letter: str = "N", length: int | None = None, other: str = "y") -> NDArray[np.int64]:
    """A contiguous vector of int64. uint64 is reinterpreted: one to one, which is all that ids need, and negative where it overflows."""
    a = vector(name, x, letter=letter, length=length, other=other)
    if a.dtype.kind not in "iu" and not (a.size == 0 and isinstance(x, list | tuple)):  # NumPy takes [] for float64
        raise TypeError(f"{name}: expected integers, got {dtype_name(x, a)}")
    return aligned(a).view(np.int64) if a.dtype == np.uint64 else aligned(a, np.int64)


def weights(name: str, x: Any, *, length: int, other: str = "y") -> NDArray[np.float64]:
    """A contiguous vector of finite numbers of at least 0."""
    w = aligned(numbers(name, x, length=length, other=other), np.float64)
    if (w < 0).any():
        raise ValueError(f"{name}: expected numbers of at least 0, got {w[w < 0][0]} at index {int((w < 0).argmax())}")
    reject_infinite(name, w)
    return w


def edges(name: str, x: Any) -> NDArray[np.float64]:
    """A contiguous vector of at least 2 strictly ascending numbers, a copy."""
    a = numbers(name, x, letter="M+1")
    e = np.array(a, np.float64)
    if is_beyond_fp64(a):
        i = int((e.astype(np.longdouble) != a).argmax())
        raise ValueError(f"{name}: expected numbers that a float64 holds, got {a[i]} at index {i}")
    if len(e) < 2:
        raise ValueError(f"{name}: expected at least 2, got {len(e)}")
    down = ~(e[1:] > e[:-1])
    if down.any():
        i = int(down.argmax()) + 1
        raise ValueError(f"{name}: expected strictly ascending numbers, got {e[i]} at index {i} after {e[i - 1]}")
    return e


def levels(name: str, x: Any) -> NDArray[np.float64]:
    """A contiguous vector of numbers in [0, 1], a copy."""
    a = np.array(numbers(name, x, letter="L", nan=True, boolean=False), np.float64)
    outside = ~((a >= 0) & (a <= 1))
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(f"{name}: expected numbers in [0, 1], got {a[i]} at index {i}")
    return a


def reject_nan(name: str, a: Array) -> None:
    if a.dtype.kind == "f" and a.size and np.isnan(a.min()):  # the minimum of anything with a NaN is NaN, and needs no array of its own
        bad = np.isnan(a)
        raise ValueError(f"{name}: expected no NaN, got {bad.sum()} of {a.size}, the first at index {bad.argmax()}")


def reject_infinite(name: str, a: Array) -> None:
    if a.dtype.kind == "f" and a.size and not (np.isfinite(a.min()) and np.isfinite(a.max())):
        bad = np.isinf(a)
        i = int(bad.argmax())
        raise ValueError(f"{name}: expected finite numbers, got {a.flat[i]} at index {i}, and {bad.sum()} of {a.size} infinite in all")


def dtype_name(x: Any, a: Array) -> str:
    """The dtype as the caller knows it: of `x` if it has one (torch.bfloat16), else of the array made of it; and what objects are."""
    name = str(x.dtype) if hasattr(x, "dtype") else str(a.dtype)
    strange = [v for v in a.flat if not isinstance(v, int | float)] if name == "object" else []
    return f"object ({type(strange[0]).__name__})" if strange else name


# ---------------------------------------------------------------------------------- conversions for the kernels


def is_beyond_fp64(a: Array) -> bool:
    """Whether fp64 rounds a number of `a`."""
    if a.dtype == np.longdouble:
        return bool((a.astype(np.float64) != a).any())
    if not (a.dtype in (np.int64, np.uint64) and a.size and (a.max() > 2**53 or a.min() < -(2**53))):
        return False
    return bool((a.astype(np.float64).astype(np.longdouble) != a).any())


def binnable(*arrays: Array) -> list[Array]:
    """As `common_float`, but what fp64 cannot hold is rounded down: it stays on its side of every edge."""
    return common_float(*(_rounded_down(a) if is_beyond_fp64(a) else a for a in arrays))


def _rounded_down(a: Array) -> Array:
    x = a.astype(np.float64)
    return np.where(x.astype(np.longdouble) > a.astype(np.longdouble), np.nextafter(x, -np.inf), x)


def common_float(*arrays: Array) -> list[Array]:
    """All as contiguous float32 where that holds each exactly, else all as float64."""
    dtype = np.float32 if all(np.can_cast(a.dtype, np.float32) for a in arrays) else np.float64
    return [aligned(a, dtype) for a in arrays]


def aligned(a: Any, dtype: Any = None) -> Array:
    """Contiguous, at an address that suits its dtype."""
    return np.require(a, dtype, ("C_CONTIGUOUS", "ALIGNED"))


def same_order(a: Array) -> Array:
    """Contiguous int32, int64, float32 or float64 values that compare as those of `a` do."""
    if a.dtype == np.longdouble:
        return np.unique(a, return_inverse=True)[1].astype(np.int64)
    if a.dtype == np.uint64:
        return aligned(a ^ np.uint64(1 << 63)).view(np.int64)
    for dtype in (np.int32, np.int64) if a.dtype.kind in "biu" else (np.float32,):
        if np.can_cast(a.dtype, dtype):
            return aligned(a, dtype)
    return aligned(a, np.float64)


def like(x: Any, *arrays: Any) -> tuple[Any, ...]:
    """Results as `x` was given: tensors on its device for a tensor, else the arrays as they are."""
    if not is_tensor(x):
        return arrays
    return tuple(sys.modules["torch"].as_tensor(np.asarray(a), device=x.device) for a in arrays)

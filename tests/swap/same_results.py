"""One call of a package's function before, during and after ``swap_in("package")``, compared."""

import warnings

import numpy as np
import torch

from ordkernels import swap_in


def outcome(call):
    """(value or the type and text of the error, the warnings' texts)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = call()
        except Exception as e:
            value = type(e), str(e)
    return value, [str(w.message) for w in caught]


def same(a, b, rtol=0.0):
    """The same type, dtype, shape, labels; the same values, or within ``rtol`` of the largest."""
    assert type(a) is type(b)
    if isinstance(a, tuple) and not hasattr(a, "statistic"):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y, rtol)
    elif hasattr(a, "statistic"):
        for name in ("statistic", "pvalue", "correlation"):
            same(getattr(a, name), getattr(b, name), rtol)
    elif type(a).__module__.startswith("pandas"):
        assert a.index.equals(b.index)
        assert a.index.names == b.index.names
        assert getattr(a, "name", None) == getattr(b, "name", None)
        if a.ndim == 2:
            assert a.columns.equals(b.columns)
        assert str(getattr(a, "dtypes", "")) == str(getattr(b, "dtypes", ""))
        same(a.to_numpy(dtype=float, na_value=np.nan), b.to_numpy(dtype=float, na_value=np.nan), rtol)
    elif isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, b.requires_grad)
        same(a.detach().numpy(), b.detach().numpy(), rtol)
    elif isinstance(a, (np.ndarray, np.generic, float)):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        size = np.abs(np.nan_to_num(b, posinf=0, neginf=0)).max(initial=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * size)
    else:
        assert a == b


def compare(package, call, rtol=0.0):
    """One call before, under the swap and after it; returns the number of calls that ours served."""
    before = outcome(call)
    with swap_in(package, strict=True) as report:
        during = outcome(call)
    after = outcome(call)
    for got, said in (during, after):
        same(got, before[0], rtol)
        assert said == before[1]
    assert all(row.verified for row in report.swapped if row.calls)
    return sum(row.calls for row in report.swapped)

"""`_host` called by hand, past the checks of the public functions: errors, never a wrong read; nothing is kept alive."""

import sys
from typing import Any

import numpy as np
import pytest

_host = pytest.importorskip("ordkernels._host")
Y = np.linspace(0, 1, 8)
GROUP = np.repeat(np.arange(4), 2)


@pytest.mark.parametrize(
    "arguments", [(), (Y,), (Y, Y, 0.0, 1, 1), (Y, Y.astype(np.float32), 0.0, 1), (Y, GROUP, 0.0, 1), ([1.0], Y, 0.0, 1)]
)
def test_other_kinds_of_arguments(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="arguments: expected others in number, kind or dtype"):
        _host.errors(*arguments)


def test_layouts_and_byte_orders() -> None:
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        _host.errors(np.zeros(16)[::2], Y, 0.0, 1)
    with pytest.raises(TypeError):
        _host.errors(Y.astype(">f8"), Y, 0.0, 1)
    frozen = Y.copy()
    frozen.setflags(write=False)
    assert _host.errors(frozen, frozen, 0.0, 1)[2] == 8
    counts = np.zeros((1, 1), np.int64)
    _host.joint_counts(Y, Y, np.array([0.0, 1.0]), np.array([0.0, 1.0]), counts, 1)
    assert counts.item() == 8
    counts.setflags(write=False)
    with pytest.raises((BufferError, ValueError), match="read-only"):
        _host.joint_counts(Y, Y, np.array([0.0, 1.0]), np.array([0.0, 1.0]), counts, 1)


def test_errors_of_python_and_of_the_checks() -> None:
    with pytest.raises(ValueError, match=r"prediction: expected shape \[N\] = \[8\], got \[7\]"):
        _host.errors(Y, Y[:7], 0.0, 1)
    with pytest.raises(TypeError):
        _host.errors(Y, Y, "0", 1)
    with pytest.raises(TypeError):
        _host.errors(Y, Y, 0.0, 1.5)
    with pytest.raises(OverflowError):
        _host.errors(Y, Y, 0.0, 2**70)
    with pytest.raises(ValueError, match="y: expected float32, float64, int32 or int64"):
        _host.srcc(Y.astype(np.float16), Y, 1)


def test_each_dtype_has_its_overload() -> None:
    for dtype in (np.float32, np.float64):
        quantiles = _host.segment_quantiles(Y.astype(dtype), np.array([0, 4, 8]), np.array([0.5]), 1)
        assert (quantiles.dtype, quantiles.shape) == (dtype, (2, 1))
    for time in (np.arange(8), np.arange(8.0)):
        assert _host.history_quantiles(Y, GROUP, time, np.array([0.5]), 1, 1).shape == (8, 1)
    weights = np.ones(8)
    assert _host.xauc_counts(Y, Y, None, False, np.int64(1))[:3] == (28, 0, 28)
    assert _host.xauc_counts(Y, Y, weights, False, 1)[:3] == (28.0, 0.0, 28.0)


def test_references_and_buffers_are_given_back() -> None:
    y, p, levels, offsets = Y.copy(), Y.copy(), np.array([0.5]), np.array([0, 8])
    arrays = (y, p, levels, offsets)
    before = [sys.getrefcount(a) for a in arrays]
    for _ in range(100):
        out = _host.segment_quantiles(y, offsets, levels, 1)
        _host.errors(y, p, 0.0, 1)
        with pytest.raises(TypeError):
            _host.errors(y, p, 0.0, None)
        with pytest.raises(ValueError, match="levels"):
            _host.segment_quantiles(y, offsets, p + 1, 1)
    assert sys.getrefcount(out) == 2
    assert [sys.getrefcount(a) for a in arrays] == before
    y.resize(9, refcheck=False)  # an exported buffer would refuse

"""Functions of a package that is named: replaced wherever they are held, and put back everywhere."""

import sys
import types

import numpy as np
import pytest

from ordkernels import swap, swap_in, swap_out

SOURCE = """
def crps(samples, y, axis=-1):
    "theirs"
    return abs(samples - y[..., None]).mean(axis)

class Frame:
    def __init__(self, x): self.x = x
    def quantile(self, q): return float(sorted(self.x)[int(q * (len(self.x) - 1))])
    @staticmethod
    def where(): return 1.0
"""


@pytest.fixture
def theirs(monkeypatch):
    package, user = types.ModuleType("theirs"), types.ModuleType("user_of_theirs")
    exec(SOURCE, package.__dict__)
    package.scores = inner = types.ModuleType("theirs.scores")
    inner.crps, user.their_crps = package.crps, package.crps
    for module in (package, user, inner):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    @swap.function("theirs.scores.crps", op="crps")
    def crps(original, samples, y, axis=-1):
        if axis != -1:
            return swap.Fallback("axis")
        return np.add.reduce(np.abs(samples - y[:, None]), axis=1) / samples.shape[1] * package.__dict__.get("error", 1)

    @swap.function("theirs.Frame.quantile", op="segment_quantiles")
    def quantile(original, self, q):
        return float(np.quantile(self.x, q, method="lower"))

    return package, user


X, Y = np.arange(12.0).reshape(3, 4), np.ones(3)


def test_replaced_everywhere_and_put_back(theirs):
    package, user = theirs
    before, method = package.crps, vars(package.Frame)["quantile"]
    frame = package.Frame([3.0, 1.0, 2.0])
    report = swap_in("theirs")
    assert package.crps is package.scores.crps is user.their_crps is not before
    assert package.crps.__doc__ == "theirs"
    assert np.allclose(user.their_crps(X, Y), before(X, Y))
    assert frame.quantile(0.5) == 2.0
    assert [(r.path, r.op, r.calls, r.verified) for r in report.swapped] == [
        ("theirs.scores.crps", "crps", 1, ["crps"]),
        ("theirs.Frame.quantile", "segment_quantiles", 1, ["quantile"]),
    ]
    assert report.swapped[0].max_error <= 1e-15
    late = types.ModuleType("late")
    late.crps = package.crps
    sys.modules["late"] = late
    try:
        report.undo()
        assert late.crps is before
    finally:
        del sys.modules["late"]
    assert package.crps is package.scores.crps is user.their_crps is before
    assert vars(package.Frame)["quantile"] is method
    report.undo()


def test_fallbacks_second_swaps_and_contexts(theirs):
    package, _ = theirs
    before = package.crps
    with swap_in("theirs") as report:
        package.crps(X.T, Y[:, None], axis=0)
        assert report.swapped[0].fallbacks == {"axis": 1}
        second = swap_in("theirs")
        assert second.swapped == []
        second.undo()
        assert package.crps is not before
    assert package.crps is before
    swap_in("theirs")
    assert swap_out("theirs") == ["theirs.scores.crps", "theirs.Frame.quantile"]
    assert package.crps is before
    assert swap_out("theirs") == []


def test_a_planted_error_raises_and_is_undone(theirs):
    package, _ = theirs
    before, package.error = package.crps, 1.001
    swap_in("theirs")
    with pytest.raises(swap.SwapError, match=r"theirs.scores.crps by ops.crps: result: error .* budget"):
        package.crps(X, Y)
    assert package.crps is before


@pytest.mark.usefixtures("theirs")
def test_left_out(monkeypatch):
    monkeypatch.setenv("ORDKERNELS_DISABLE", "crps")

    @swap.function("theirs.gone", op="crps")
    def gone(original): ...

    report = swap_in("theirs")
    assert [r.path for r in report.swapped] == ["theirs.Frame.quantile"]
    assert report.skipped[0].reason == "ORDKERNELS_DISABLE names crps"
    monkeypatch.delenv("ORDKERNELS_DISABLE")
    assert "does not have it" in swap_in("theirs").skipped[-1].reason
    swap.function("not_installed.f", op="crps")(lambda original: None)
    with pytest.raises(ModuleNotFoundError):
        swap_in("not_installed")
    with pytest.raises(ValueError, match="got nothing"):
        swap_in("theirs", strict=True)

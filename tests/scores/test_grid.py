"""GridXAUC: its bound holds, nothing depends on the order of rows, bins are exact."""

import numpy as np
import pytest

from ordkernels import scores
from ordkernels.scores.grid import GridXAUC, _edges, _key


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("bins", [8, 64])
def test_grid_bound_holds_and_nothing_depends_on_order(scale, bins):
    rng = np.random.default_rng(int(bins))
    y = np.concatenate((rng.lognormal(0, 2, 150), -rng.random(50))) * scale
    p = y * rng.normal(1, 0.5, 200)
    once = GridXAUC(bins).update(y, p)
    found = once.result()
    exact = scores.xauc(y, p).value
    assert found.low <= exact <= found.high
    assert abs(found.value - exact) <= found.bound
    order, chunked, other = rng.permutation(200), GridXAUC(bins), GridXAUC(bins)
    for i, part in enumerate(np.split(order, [1, 5, 5, 80, 81])):
        (chunked if i % 2 else other).update(y[part], p[part])
    assert chunked.merge(other).merge(GridXAUC(bins)).result() == found
    np.testing.assert_array_equal(chunked._range[:, :2], once._range[:, :2])
    assert once._joint.sum() == 200


def test_grid_edges_are_exact():
    for x in (0.0, -0.0, 1e-300, -1e-13, 0.3, 1.0, -1.0, 1.5, 2.0, np.nextafter(2, 0), 3.7, -1e10, 1e80, 2.0**300, -(2.0**300), 0.1 + 0.2):
        k = _key(x)
        low, high = _edges(0, k, 1)
        assert low <= x < high
    for shift, first in ((0, -5), (40, -600), (42, -150)):
        assert (np.diff(_edges(shift, first, 300)) > 0).all()
        assert set(_edges(shift + 1, first // 2 + 1, 100)) <= set(_edges(shift, first, 300))  # coarser bins are sums of bins

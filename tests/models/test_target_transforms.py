"""Transforms of targets and edges of intervals: monotone, inverse, ties, errors."""

import numpy as np
import pytest
import torch

from ordkernels.models import TargetMap
from ordkernels.models.target_transforms import interval_widths


@pytest.mark.parametrize("N", [3, 100, 5000])
def test_target_map_is_monotone_and_inverts(N):
    y = torch.distributions.LogNormal(1.0, 1.5).sample((N,))
    y[: N // 3] = 0.0
    m = TargetMap()
    m.fit(y)
    u = m(y.sort().values)
    zeros = N // 3 / N
    assert float(u[0]) == pytest.approx(zeros / 2, abs=1e-6)  # the middle of its share
    assert float(u[-1]) == pytest.approx(1 - 0.5 / N, abs=1e-6)
    assert bool((u.diff() >= 0).all())
    assert torch.allclose(m.inverse(m(y)), y, rtol=1e-3, atol=1e-4)
    if N == 5000:  # equal shares of rows in equal parts, but for the zeros, whose mass sits at one point
        positive = u[u > u[0]]
        shares = torch.histc((positive - positive.min()) / (1 - positive.min()), bins=5, min=0, max=1) / len(positive)
        assert torch.allclose(shares, torch.full((5,), 0.2), atol=0.02)


@pytest.mark.parametrize("share", [0.0975, 0.5])
def test_read_gives_a_shared_value_its_share(share):
    y = torch.rand(20_000) * 100 + 0.1
    y[: int(20_000 * share)] = 0.0
    m = TargetMap()
    m.fit(y)
    u = torch.linspace(0, 1, 100_001)
    read = m.read(u)
    assert float((read == 0).double().mean()) == pytest.approx(share, abs=1e-4)
    assert bool((read.diff() >= 0).all())
    levels = [0.6, 0.8, 0.95]  # uniform numbers become draws of the training targets
    assert np.allclose(np.quantile(read, levels), np.quantile(y, levels), rtol=0.02)
    assert m.read(torch.tensor([float("nan")])).isnan().all()
    y = torch.tensor([3.0, 1.0, 2.0])  # each once: no value is read for more than one point
    m.fit(y)
    assert torch.allclose(m.read(torch.tensor([1 / 3, 2 / 3])), torch.tensor([1.5, 2.5]), atol=1e-5)


def test_maps_of_older_checkpoints_load():
    m, state = TargetMap(knots=4), TargetMap(knots=4).state_dict()
    del state["shares"]
    m.load_state_dict(state)
    assert m.shares.tolist() == [0, 0, 0, 0]


def test_target_map_edges():
    m = TargetMap("linear")
    m.fit(torch.tensor([3.0, 9.0, 4.0]))
    assert torch.allclose(m(torch.tensor([3.0, 6.0, 9.0, 0.0, 99.0])), torch.tensor([0, 0.5, 1, 0, 1]))
    assert m(torch.tensor([float("nan")])).isnan().all()
    m = TargetMap()
    m.fit(torch.full((5,), 7.0))  # all the same
    assert torch.equal(m.inverse(m(torch.tensor([1.0, 7.0, 9.0]))), torch.full((3,), 7.0))
    m.fit(torch.tensor([1.0, 1.0, 2.0, 5.0]))
    assert m.nearest(torch.tensor([0.0, 1.4, 1.6, 3.4, 3.6, 50.0])).tolist() == [1, 1, 2, 2, 5, 5]
    assert m.nearest(torch.tensor([float("nan")])).isnan().all()
    with pytest.raises(ValueError, match="transform: expected 'quantile' or 'linear'"):
        TargetMap("log")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="knots: expected at least 2"):
        TargetMap(knots=1)


def test_interval_widths():
    assert torch.equal(interval_widths(torch.rand(9), 4, "uniform"), torch.ones(4))
    u = torch.rand(10000).square()
    edges = interval_widths(u, 5, "quantile").cumsum(0) / 5
    assert torch.allclose(edges, torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]).square(), atol=0.02)
    for tied in (torch.zeros(50), torch.cat((torch.zeros(50), torch.ones(3)))):  # quantiles that all coincide
        w = interval_widths(tied, 8, "quantile")
        assert len(w) == 8
        assert bool((w > 0).all())
        assert float(w.sum()) == pytest.approx(8, abs=1e-5)

"""Intervals of n draws hold a further draw with the probability that was asked for, exactly, whatever n."""

import pytest
import torch

from ordkernels.samplers import Sampler
from ordkernels.samplers._base import quantiles_of


class Normal(torch.nn.Module):
    """A model whose predictive distribution is known: standard normal in every row."""

    def condition(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return x["y"]


class Draws(Sampler):
    def _draws(self, x, n, seed, ids):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(x["y"]), n, generator=generator)


@pytest.mark.parametrize("n", [9, 32, 128])
@pytest.mark.parametrize("level", [0.5, 0.8])
def test_a_perfect_model_holds_its_level(n, level):
    B = 40_000
    y = torch.randn(B, generator=torch.Generator().manual_seed(1))
    low, high = Draws(Normal()).interval({"y": y}, level, n, seed=2).unbind(1)
    holds = ((low <= y) & (y <= high)).double().mean()
    assert abs(float(holds) - level) < 4 * (level * (1 - level) / B) ** 0.5 + 0.25 / n**2  # of linear interpolation in a curved tail


def test_quantiles_end_at_the_extreme_draws():
    sampler, x = Draws(Normal()), {"y": torch.zeros(5)}
    draws = sampler.sample(x, 7, seed=3)
    ends = sampler.quantiles(x, [0.0, 0.1, 0.5, 1.0], 7, seed=3)
    assert torch.equal(ends, torch.stack((draws.amin(1), draws.amin(1), draws.median(1).values, draws.amax(1)), dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_quantiles_are_order_statistics(dtype):
    """Of i in n draws at level i / (n + 1); NaN lies behind all numbers."""
    draws = torch.randn(40, 31, generator=torch.Generator().manual_seed(0)).to(dtype)
    draws[7, :20], draws[8] = torch.nan, torch.inf
    draws[9, 3:5] = torch.tensor([torch.inf, -torch.inf])
    ordered, levels = draws.sort(dim=1).values, [0.25, 0.5, 0.75]
    at = [7, 15, 23]
    found = quantiles_of(draws.T.contiguous().T, levels)
    assert torch.equal(found.isnan(), ordered[:, at].isnan() | ordered[:, at].isinf())  # between two infinities lies no number
    torch.testing.assert_close(found.nan_to_num(0.0), ordered[:, at].nan_to_num(0.0, 0.0, 0.0))
    doubled = quantiles_of(draws, levels, lambda t: 2 * t)
    torch.testing.assert_close(doubled.nan_to_num(0.0), 2 * found.nan_to_num(0.0))

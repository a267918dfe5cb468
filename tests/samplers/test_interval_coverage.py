"""Intervals of n draws hold a further draw with the probability that was asked for, exactly, whatever n."""

import pytest
import torch

from ordkernels.samplers import Sampler


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

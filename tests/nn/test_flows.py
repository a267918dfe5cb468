"""Flow modules: bijection, log-determinants against the Jacobian, torch.distributions views, starting values."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution, constraints

from ordkernels.nn import ConditionalPlanarFlow, PlanarFlow, PlanarTransform, QuantileEncoder
from ordkernels.nn.priors import DiffusionPrior


def base(*shape: int) -> Independent:
    return Independent(Normal(torch.zeros(*shape, dtype=torch.float64), torch.ones(*shape, dtype=torch.float64)), 1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("constrained", [True, "smooth"])
@pytest.mark.parametrize("shape", [(5, 6), (5, 3, 6)])
def test_round_trip_of_the_modules(constrained, shape) -> None:
    z, h = torch.randn(*shape, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    shared = PlanarFlow(6, layers=3, constrained=constrained).double()
    rows = ConditionalPlanarFlow(6, 3, layers=3, constrained=constrained).double()
    for forward, inverse in ((shared, shared.inverse), (lambda z: rows(z, h), lambda z: rows.inverse(z, h))):
        out, log_det = forward(z)
        back, log_det_back = inverse(out)
        assert log_det.shape == z.shape[:-1]
        assert float((out - z).detach().abs().max()) > 0.05  # it does something
        torch.testing.assert_close(back, z, atol=1e-9, rtol=0)
        torch.testing.assert_close(log_det_back, log_det, atol=1e-9, rtol=0)


def test_transform_of_a_conditional_flow_agrees_with_the_jacobian_row_by_row() -> None:
    flow = ConditionalPlanarFlow(4, 3, layers=2).double()
    h, x = torch.randn(5, 3, dtype=torch.float64), torch.randn(7, 5, 4, dtype=torch.float64)
    transform = flow.transform(h)
    y = transform(x)
    assert y.shape == x.shape
    log_det = transform.log_abs_det_jacobian(x, y)
    assert log_det.shape == (7, 5)
    for i, b in ((0, 0), (3, 2), (6, 4)):
        one = flow.transform(h[b : b + 1])
        J = torch.autograd.functional.jacobian(lambda v, one=one: one(v[None])[0], x[i, b])
        torch.testing.assert_close(torch.linalg.slogdet(J).logabsdet, log_det[i, b])
        torch.testing.assert_close(one(x[i, b][None])[0], y[i, b])
    torch.testing.assert_close(transform.inv(y), x, atol=1e-9, rtol=0)


@pytest.mark.parametrize("cache_size", [0, 1])
def test_density_integrates_to_one_and_gradients_flow(cache_size) -> None:
    flow = PlanarFlow(2, layers=3).double()
    with torch.no_grad():
        flow.u.mul_(5)
    density = TransformedDistribution(base(2), flow.transform(cache_size=cache_size))
    axis = torch.linspace(-8, 8, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    mass = density.log_prob(grid).exp().sum().detach() * (axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1.0, abs=2e-3)
    sample = density.rsample((64,))
    (-density.log_prob(sample.detach()).mean()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in flow.parameters())


def test_the_cache_gives_the_same_log_det_and_no_stale_one() -> None:
    flow = PlanarFlow(3).double()
    cached, plain = flow.transform(cache_size=1), flow.transform()
    for _ in range(2):
        x = torch.randn(5, 3, dtype=torch.float64)
        torch.testing.assert_close(cached.log_abs_det_jacobian(x, cached(x)), plain.log_abs_det_jacobian(x, plain(x)))
        other = torch.randn(5, 3, dtype=torch.float64)
        torch.testing.assert_close(cached.log_abs_det_jacobian(other, plain(other)), plain.log_abs_det_jacobian(other, plain(other)))


def test_per_row_density_through_torch_distributions() -> None:
    """log p(z_K) = log N(z_0; 0, I) - log_det (eq. 17), with sample dimensions in front as torch.distributions has them."""
    flow, h = ConditionalPlanarFlow(6, 3).double(), torch.randn(5, 3, dtype=torch.float64)
    density = TransformedDistribution(base(5, 6), flow.transform(h))
    z0 = torch.randn(5, 9, 6, dtype=torch.float64)
    z, log_det = flow(z0, h)
    want = -0.5 * z0.square().sum(-1) - 3 * math.log(2 * math.pi) - log_det
    torch.testing.assert_close(density.log_prob(z.transpose(0, 1)), want.T)
    assert density.sample((4, 2)).shape == (4, 2, 5, 6)


def test_transform_properties_and_errors() -> None:
    flow = ConditionalPlanarFlow(4, 2)
    transform = flow.transform(torch.randn(5, 2))
    assert transform.bijective
    assert transform.domain.event_dim == transform.codomain.event_dim == 1
    assert constraints.is_dependent(transform.domain) is False
    with pytest.raises(ValueError, match=r"x: expected shape \[\.\.\., B, D\] with B = 5"):
        transform(torch.randn(3, 4))
    loose = PlanarFlow(4, constrained=False).transform()
    assert not loose.bijective
    with pytest.raises(NotImplementedError, match="constrained=False"):
        PlanarTransform._inverse(loose, torch.randn(3, 4))
    assert transform.with_cache(1)._cache_size == 1


def test_state_dict_keys_are_stable() -> None:
    assert list(PlanarFlow(4).state_dict()) == ["u", "w", "b"]
    assert list(ConditionalPlanarFlow(4, 2).state_dict()) == ["weight", "bias"]
    assert ConditionalPlanarFlow(4, 2, layers=3).weight.shape == (27, 2)


@pytest.mark.parametrize("width", [2, 64])
def test_w_starts_near_the_unit_sphere(width: int) -> None:
    w = ConditionalPlanarFlow(width, 32).parameters_of(torch.randn(200, 32))[1]
    norms = w.detach().norm(dim=-1)
    assert 0.1 < float(norms.min()) < float(norms.max()) < 3
    assert float(norms.mean()) == pytest.approx(1.05, abs=0.15)
    torch.testing.assert_close(PlanarFlow(width).w.norm(dim=-1), torch.ones(4))


def test_module_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="layers: expected a whole number of at least 1, got 0"):
        PlanarFlow(4, layers=0)
    with pytest.raises(ValueError, match="cond_width"):
        ConditionalPlanarFlow(4, -1)
    with pytest.raises(ValueError, match="width: expected a multiple of heads = 3, got 16"):
        QuantileEncoder(20, 16, heads=3)
    with pytest.raises(ValueError, match="encoder"):
        QuantileEncoder(20, encoder="cnn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"q: expected shape \[B, 20\], got \[3, 19\]"):
        QuantileEncoder(20)(torch.rand(3, 19))


@pytest.mark.parametrize("encoder", ["transformer", "mlp"])
def test_quantile_encoder_sees_order_and_flag_and_is_row_wise(encoder) -> None:
    encoder = QuantileEncoder(20, 16, encoder=encoder).eval()
    q, has = torch.rand(6, 20).sort(dim=1).values * 30, torch.ones(6)
    h = encoder(q, has)
    assert h.shape == (6, 16)
    torch.testing.assert_close(h, encoder(q))  # no flag: all have a history
    torch.testing.assert_close(h[2:4], encoder(q[2:4], has[2:4]), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(h, encoder(q.flip(1), has), atol=1e-3)  # positions matter
    assert not torch.allclose(h, encoder(q, 1 - has), atol=1e-3)  # so does the flag
    h.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("process", ["ddpm", "flow_matching"])
def test_diffusion_prior_steps_are_those_of_the_formulas(process: str) -> None:
    """DDIM with eta = 0 under the cosine schedule, and Euler steps, written out."""
    prior = DiffusionPrior(3, 2, 4, process=process, steps=5).double()
    noise, h = torch.randn(6, 7, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)

    def signal(t: float) -> float:
        return max(math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2, 1e-3) / math.cos(0.008 / 1.008 * math.pi / 2) ** 2

    x = noise
    with torch.no_grad():
        for i in range(5, 0, -1):
            out = prior._net(x, torch.full((1, 1), i / 5, dtype=torch.float64), h)
            if process == "flow_matching":
                x = x - out / 5
                continue
            a, s = signal(i / 5), signal((i - 1) / 5)
            x = s**0.5 * (x - (1 - a) ** 0.5 * out) / a**0.5 + (1 - min(s, 1.0)) ** 0.5 * out
    torch.testing.assert_close(prior(noise, h), x)
    assert prior.loss(noise[:, 0], h).requires_grad

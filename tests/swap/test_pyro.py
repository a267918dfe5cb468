"""Pyro's Planar and ConditionalPlanar with random weights, before, during and after a swap."""

import copy
import pickle

import pytest
import torch

from ordkernels import ops, swap, swap_in, swap_out

pyro = pytest.importorskip("pyro", reason="pyro-ppl is not installed")
dist = pyro.distributions
transforms = pyro.distributions.transforms

torch.distributions.Distribution.set_default_validate_args(True)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def base(D=6):
    return dist.Normal(torch.zeros(D), torch.ones(D)).to_event(1)


def planar(seed=0, D=6):
    torch.manual_seed(seed)
    flow = transforms.planar(D)
    torch.nn.init.normal_(flow.bias)
    return flow


def conditional(seed=0):
    torch.manual_seed(seed)
    return transforms.conditional_planar(6, 3, [16])


def results(flow, x, context=None):
    """A sample's density, and its gradients."""
    parameters = list(flow.parameters())
    x = x.clone().requires_grad_()
    t = flow if context is None else flow.condition(context)
    y = t(x)
    log_det = t.log_abs_det_jacobian(x, y)
    weight = torch.linspace(1, 2, y.numel()).view(y.shape)
    loss = (weight * y).sum() + (weight[..., 0] * log_det).sum()
    return [y, log_det, *torch.autograd.grad(loss, [x, *parameters])]


@pytest.mark.parametrize("shape", [(6,), (1, 6), (127, 6), (3, 4, 6), (0, 6)], ids=str)
def test_planar_in_fp64(shape):
    for seed in range(3):
        flow = planar(seed)
        x = 2 * torch.randn(shape)
        before = results(flow, x)
        report = swap_in(flow, strict=True)
        for a, b in zip(results(flow, x), before, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert report.swapped[0].calls == 1
        assert report.swapped[0].verified == ["_call"]
        report.undo()
        assert type(flow) is transforms.Planar
        assert all(torch.equal(a, b) for a, b in zip(results(flow, x), before, strict=True))


@pytest.mark.parametrize(
    ("context", "x"),
    [((5, 3), (5, 6)), ((5, 3), (20, 5, 6)), ((1, 3), (1, 6)), ((3,), (6,)), ((3,), (4, 6)), ((2, 5, 3), (7, 2, 5, 6)),
     ((127, 3), (127, 6))],
    ids=str,
)  # fmt: skip
def test_conditional_planar_in_fp64(context, x):
    flow = conditional()
    context, x = torch.randn(context), 2 * torch.randn(x)
    before = results(flow, x, context)
    report = swap_in(flow, strict=True)
    for a, b in zip(results(flow, x, context), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    row = report.swapped[0]
    assert (row.calls, row.verified, row.fallbacks) == (1, ["_call"], {})
    assert row.max_gradient_error < 1e-10
    results(flow, x, context)
    assert (row.calls, row.verified) == (2, ["_call"])  # one check for all transforms that it makes
    t = flow.condition(context)
    report.undo()
    assert type(t) is type(flow.condition(context)) is transforms.planar(6).__class__.__mro__[1]  # what it made is restored too
    assert all(torch.equal(a, b) for a, b in zip(results(flow, x, context), before, strict=True))


def test_broadcast_contexts_are_left_to_the_original():
    flow = conditional()
    report = swap_in(flow)
    t = flow.condition(torch.randn(5, 3))
    assert t(torch.randn(6)).shape == (5, 6)
    assert list(report.swapped[0].fallbacks.values()) == [1]


@pytest.mark.parametrize("conditioned", [False, True])
def test_densities_of_any_value(conditioned):
    """The original scores only the value that it has just made; ours inverts."""
    if conditioned:
        flow = conditional()
        density = dist.ConditionalTransformedDistribution(base(), [flow]).condition(torch.randn(5, 3))
    else:
        flow = planar()
        density = dist.TransformedDistribution(base(), [flow])
    x = density.rsample((3, 5))
    y = torch.randn(3, 5, 6)
    with pytest.raises(KeyError):
        density.log_prob(y)
    report = swap_in(flow if conditioned else density)
    if conditioned:
        density = dist.ConditionalTransformedDistribution(base(), [flow]).condition(torch.randn(5, 3))
    x = density.rsample((3, 5))
    scored = density.log_prob(x)
    torch.testing.assert_close(density.log_prob(x.clone()), scored, rtol=1e-9, atol=1e-9)
    loss = density.log_prob(y).sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, list(flow.parameters())))
    t = density.transforms[0]
    z = t.inv(y)
    torch.testing.assert_close(t(z), y, rtol=1e-9, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(
        lambda row: t(z.clone().index_put((torch.tensor(1), torch.tensor(2)), row))[1, 2], z[1, 2]
    )
    log_det = t.log_abs_det_jacobian(z, t(z))[1, 2]
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det, rtol=1e-9, atol=1e-9)
    assert any("_inverse: nothing to compare with" in note for note in report.swapped[0].notes)


def test_composed_and_copied():
    torch.manual_seed(0)
    flow = transforms.ComposeTransformModule([transforms.planar(6), transforms.planar(6)])
    x = torch.randn(4, 6)
    with torch.no_grad():  # their caches keep a graph, which cannot be copied
        before = flow(x)
        report = swap_in(flow)
        assert len(report.swapped) == 2
        torch.testing.assert_close(flow(x.clone()), before, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(copy.deepcopy(flow[0])(x), pickle.loads(pickle.dumps(flow[0]))(x), rtol=1e-10, atol=1e-10)
    assert type(pickle.loads(pickle.dumps(flow[0]))) is transforms.Planar
    assert len(swap_out(flow)) == 2
    assert torch.equal(flow(x.clone()), before)


def test_in_fp32_as_near_to_fp64_as_the_original():
    torch.set_default_dtype(torch.float32)
    flow = conditional()
    report = swap_in(flow)
    t = flow.condition(torch.randn(40, 3))
    y = t(torch.randn(40, 6))
    assert y.dtype == t.log_abs_det_jacobian(torch.randn(40, 6), y).dtype == torch.float32
    assert report.swapped[0].verified == ["_call"]
    assert 0 < report.swapped[0].max_error < 1e-5


def test_where_the_original_is_wrong():
    flow = planar()
    with torch.no_grad():
        flow.w.zero_()
    x = torch.randn(3, 6)
    assert flow(x).isnan().all()
    report = swap_in(flow)
    torch.testing.assert_close(flow(x.clone()), x + flow.u * flow.bias.tanh())
    assert "not finite in fp64 of the original" in report.text


def test_a_planted_error_undoes_what_made_the_transform(monkeypatch):
    right = ops.planar_flow
    monkeypatch.setattr(ops, "planar_flow", lambda *args, **_: tuple(1.001 * t for t in right(*args)))
    flow = conditional()
    swap_in(flow)
    t = flow.condition(torch.randn(5, 3))
    with pytest.raises(swap.SwapError, match=r"pyro.ConditionalPlanar._call by ops.planar_flow: output 0: error"):
        t(torch.randn(5, 6))
    assert type(flow) is transforms.ConditionalPlanar
    assert type(t) is type(flow.condition(torch.randn(5, 3)))

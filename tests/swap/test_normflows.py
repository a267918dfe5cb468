"""normflows' Planar with random weights, before, during and after a swap."""

import copy

import pytest
import torch
from torch import nn

from ordkernels import swap_in

normflows = pytest.importorskip("normflows", reason="normflows is not installed")
Planar = normflows.flows.Planar


def layer(shape=(8,), seed=0, dtype=torch.float64, **arguments):
    torch.manual_seed(seed)
    return Planar(shape, **arguments).to(dtype)


def results(flow, z, method="forward"):
    z = z.clone().requires_grad_()
    out, log_det = getattr(flow, method)(z)
    weight = torch.linspace(1, 2, out.numel(), dtype=out.dtype).view(out.shape)
    loss = (weight * out).sum() + (log_det * torch.linspace(1, 2, len(log_det), dtype=log_det.dtype)).sum()
    return [out, log_det, *torch.autograd.grad(loss, [z, *flow.parameters()])]


@pytest.mark.parametrize("shape", [(8,), (1,), (2, 3), (1, 4, 4)], ids=str)
@pytest.mark.parametrize("B", [0, 1, 127, 129])
def test_outputs_and_gradients_in_fp64(shape, B):
    for seed in range(3):
        flow = layer(shape, seed)
        z = 3 * torch.randn(B, *shape, dtype=torch.float64)
        before = results(flow, z)
        report = swap_in(flow, strict=True)
        for a, b in zip(results(flow, z), before, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert report.swapped[0].calls == 1
        report.undo()
        assert all(torch.equal(a, b) for a, b in zip(results(flow, z), before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_stay(dtype):
    flow = layer(dtype=dtype)
    before = results(flow, torch.randn(50, 8).to(dtype))
    report = swap_in(flow)
    after = results(flow, torch.randn(50, 8).to(dtype))
    assert [t.dtype for t in after] == [t.dtype for t in before]
    assert report.swapped[0].verified == ["forward"]


def test_inputs_of_another_dtype_are_left_to_the_original():
    flow = layer(dtype=torch.float32)
    report = swap_in(flow)
    assert flow(torch.randn(3, 8).double())[0].dtype == torch.float64
    assert flow(torch.randn(3, 8).bfloat16())[0].dtype == torch.float32
    assert report.swapped[0].fallbacks == {"z of torch.float64 and parameters of torch.float32": 1}


def test_the_inverse_works_and_is_the_inverse():
    flow = layer()
    z = torch.randn(40, 8, dtype=torch.float64)
    with pytest.raises(NotImplementedError):
        flow.inverse(z)
    report = swap_in(flow)
    out, log_det = flow(z)
    back, inverse_log_det = flow.inverse(out)
    torch.testing.assert_close(back, z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-10, atol=1e-10)
    assert report.swapped[0].notes == ["inverse: nothing to compare with, the original raises NotImplementedError"]


def test_leaky_relu_is_left_alone():
    report = swap_in(nn.ModuleList([layer(act="leaky_relu")]))
    assert report.swapped == []
    assert report.skipped[0].reason == "act='leaky_relu'"


def test_a_whole_flow_trains_as_before_and_has_a_density():
    torch.manual_seed(1)
    flow = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(2), [Planar((2,)) for _ in range(4)]).double()
    twin = copy.deepcopy(flow)
    report = swap_in(flow)
    assert len(report.swapped) == 4
    for m in (flow, twin):
        optimizer = torch.optim.SGD(m.parameters(), lr=0.01)
        for step in range(3):
            torch.manual_seed(step)
            z, log_q = m.sample(64)
            optimizer.zero_grad()
            (log_q + z.square().sum(1)).mean().backward()
            optimizer.step()
    for a, b in zip(flow.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    z, log_q = flow.sample(10)
    torch.testing.assert_close(flow.log_prob(z), log_q, rtol=1e-8, atol=1e-8)
    with pytest.raises(NotImplementedError):
        twin.log_prob(z)


def test_where_the_original_overflows_ours_does_not():
    w = torch.full((1, 8), 8.0)
    flow = Planar((8,), u=torch.full((1, 8), 8.0), w=w, b=torch.zeros(1))  # w.u = 512: exp overflows in fp32, not in fp64
    z = 0.01 * torch.randn(30, 8)
    assert not flow(z)[1].isfinite().all()
    exact = Planar((8,), u=flow.u.double().data, w=w.double(), b=torch.zeros(1).double())(z.double())
    report = swap_in(flow)
    out, log_det = flow(z)
    torch.testing.assert_close(out.double(), exact[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_det.double(), exact[1], rtol=1e-4, atol=1e-4)
    assert "the original overflows in" in report.text


def test_w_of_zero():
    flow = Planar((4,), u=torch.ones(1, 4), w=torch.zeros(1, 4), b=torch.ones(1))
    z = torch.randn(5, 4)
    assert flow(z)[0].isnan().all()
    report = swap_in(flow)
    torch.testing.assert_close(flow(z)[0], z + torch.ones(()).tanh())
    assert "not finite in fp64 of the original" in report.text


@pytest.mark.registration
def test_compile_and_export():
    flow = layer(dtype=torch.float32)
    z = torch.randn(7, 8)
    before = flow(z)
    swap_in(flow)
    compiled = torch.compile(flow, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(flow, (z,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert "planar_flow" in str(exported.graph)
    for out in (compiled(z), exported.module()(z)):
        torch.testing.assert_close(out, before, rtol=1e-4, atol=1e-5)
    assert exported.module()(z[:3])[0].shape == (3, 8)

"""The first call: a replacement that is wrong raises with the numbers and is undone, one that is right leaves no trace."""

import random

import numpy as np
import pytest
import torch
from stand_ins import Flow, Planar, add_rules
from torch import nn

from ordkernels import ops, swap, swap_in
from ordkernels.swap import _compare


@pytest.fixture(autouse=True)
def _rules():
    add_rules()


class Scaled(torch.autograd.Function):
    """The right value, a gradient that is off by a factor."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * 1.001


PLANTED = {
    "outputs": lambda z, log_det: (z * 1.0001, log_det),
    "last row": lambda z, log_det: (torch.cat((z[:-1], z[-1:] + 1e-3)), log_det),
    "log-determinants": lambda z, log_det: (z, log_det + 1e-3),
    "gradients": lambda z, log_det: (Scaled.apply(z), log_det),
    "dtype": lambda z, log_det: (z, log_det.double()),
    "shape": lambda z, log_det: (z, log_det[:, None]),
    "nan": lambda z, log_det: (z, torch.where(torch.arange(len(log_det)) == 3, torch.nan, log_det)),
    "too few": lambda z, log_det: (z,),
    "an error": lambda z, log_det: z.view(3, -1)[::-1],
}


def plant(monkeypatch, how):
    right = ops.planar_flow
    monkeypatch.setattr(ops, "planar_flow", lambda *args, **kwargs: PLANTED[how](*right(*args, **kwargs)))


Z = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("how", [*PLANTED])
def test_a_planted_error_raises_and_is_undone(monkeypatch, how, dtype):
    plant(monkeypatch, how) if not (how == "dtype" and dtype == torch.float64) else plant(monkeypatch, "shape")
    torch.manual_seed(0)
    model = Flow().to(dtype)
    before = model(Z.to(dtype))
    report = swap_in(model)
    with pytest.raises(swap.SwapError, match=r"layers.0: stand_ins.Planar.forward by ops.planar_flow: .*Its swap is undone") as error:
        model(Z.to(dtype))
    if how in ("outputs", "gradients"):
        assert "error" in str(error.value)
        assert "budget" in str(error.value)
    assert type(model.layers[0]) is Planar
    assert type(model.layers[1]) is not Planar
    report.undo()
    assert all(torch.equal(a, b) for a, b in zip(model(Z.to(dtype)), before, strict=True))


def test_without_verification_nothing_raises(monkeypatch):
    plant(monkeypatch, "outputs")
    model = Flow()
    report = swap_in(model, verify=False)
    model(Z)
    assert report.swapped[0].calls == 1
    assert report.swapped[0].max_error is None


@pytest.mark.parametrize("example", [Z, (Z,), {"z": Z}, lambda model: model(Z)], ids=["tensor", "tuple", "dict", "function"])
def test_an_example_verifies_at_once(monkeypatch, example):
    model = Flow()
    drop = nn.Dropout(0.5)
    model.head = nn.Sequential(drop, model.head)
    state = torch.get_rng_state()
    report = swap_in(model, example=example)
    assert [row.verified for row in report.swapped] == [["forward"], ["forward"]]
    assert drop.training
    assert torch.equal(torch.get_rng_state(), state)
    report.undo()
    plant(monkeypatch, "gradients")
    with pytest.raises(swap.SwapError, match="gradient"):
        swap_in(model, example=example)
    assert [type(layer).__mro__[1] for layer in model.layers[:2]] == [nn.Module, Planar]  # everything is undone


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode], ids=lambda c: c.__name__)
def test_verification_leaves_no_trace(context):
    torch.manual_seed(3)
    model = Flow()
    events = []
    model.layers[0].register_forward_hook(lambda *_: events.append("forward"))
    model.layers[0].u.register_hook(lambda g: events.append("gradient"))
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    report = swap_in(model)
    with context():
        out, _ = model(Z)
    assert report.swapped[0].verified == ["forward"]
    assert report.swapped[0].max_gradient_error is not None
    assert events == ["forward"]
    assert out.requires_grad == (context is torch.enable_grad)
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert np.random.get_state()[1].tolist() == state[2]  # noqa: NPY002


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_dtypes_are_judged_by_their_own_rounding(dtype, monkeypatch):
    @swap.rule(Planar, op="planar_flow")
    class Fused:
        def forward(self, z):
            out, log_det = ops.planar_flow(z, self.u[None], self.w[None], self.b)
            return out, log_det.to(z.dtype)

    layer = Planar().to(dtype)
    report = swap_in(layer)
    layer(Z.to(dtype))
    assert report.swapped[0].verified == ["forward"]
    plant(monkeypatch, "last row")
    monkeypatch.setitem(PLANTED, "last row", lambda z, log_det: (torch.cat((z[:-1], z[-1:] + 1)), log_det))
    layer = Planar().to(dtype)
    swap_in(layer)
    with pytest.raises(swap.SwapError):
        layer(Z.to(dtype))


def test_long_sums_and_saturated_rows_are_no_false_alarm():
    """Over many seeds: gradients of parameters are sums over 4,000 rows, some of them far out."""
    for seed in range(30):
        torch.manual_seed(seed)
        layer = Planar(16)
        swap_in(layer)
        layer(torch.randn(4000, 16) * (100.0 if seed % 3 == 0 else 1.0))


def test_where_the_original_is_not_finite_the_report_says_so():
    layer = Planar()
    with torch.no_grad():
        layer.w.zero_()
    report = swap_in(layer)
    out, log_det = layer(Z)
    assert out.isfinite().all()
    assert (log_det == 0).all()
    assert "not finite in fp64 of the original" in report.text


def test_compare_by_hand():
    one = torch.ones(3)
    assert _compare.compare("x", [one], [one], [one.double()]).error == 0
    budget = 8 * torch.finfo(torch.float32).eps
    for off, bad in ((0.5, False), (1.5, True)):
        verdict = _compare.compare("x", [one + off * budget], [one], [one.double()])
        assert bool(verdict.failures) is bad
    # twice the original's own error
    assert not _compare.compare("x", [one + 1.9e-3], [one + 1e-3], [one.double()]).failures
    assert _compare.compare("x", [one + 2.1e-3], [one + 1e-3], [one.double()]).failures
    assert not _compare.compare("x", [one + 7.9e-3], [one], [one.double()], [[one.double()], [one.double() + 1e-3]]).failures
    assert _compare.compare("x", [one + 8.1e-3], [one], [one.double()], [[one.double() + 1e-3]]).failures
    # an overflow of the original's excuses nothing of ours
    assert _compare.compare("x", [one * torch.inf], [one * torch.inf], [one.double()]).failures
    assert not _compare.compare("x", [one], [one * torch.nan], [one.double()]).failures
    assert _compare.compare("x", [one.long() + 1], [one.long()], [one.long()]).failures == ["x: 3 of 3 values differ"]
    assert _compare.compare("x", [None], [None], [None]).failures == []
    assert _compare.compare("x", [None], [one], [one.double()]).failures

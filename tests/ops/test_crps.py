"""CRPS, and what it has in common with the pinball loss: ties, NaN, long rows, ways through autograd."""

import itertools
import math

import numpy as np
import pytest
import torch
from _scores import BACKENDS, DEVICE, DTYPES, LEVELS, by_definition, make, native, with_gradients

import ordkernels
from ordkernels import ops
from ordkernels.ops.crps import _OP


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("B", "L"), [(0, 3), (1, 1), (9, 2), (17, 3), (5, 20), (35, 20), (16, 8), (17, 16), (7, 129)])
def test_crps_within_the_error_of_eager(backend, dtype, B, L):
    for fair in (False, True)[:L]:
        s, y = make(B, L, dtype)
        with ordkernels.use_backend(backend):
            got = with_gradients(lambda s, y, fair=fair: ops.crps(s, y, fair=fair), s, y)
            value = ops.crps(s, y, fair=fair)  # the kernel for the value alone
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        exact = with_gradients(lambda s, y, fair=fair: by_definition(s, y, fair), s.double(), y.double())
        if dtype.itemsize == 2:  # its rows have ties, where the definition's slope is another
            with ordkernels.use_backend("reference"):
                exact[1:] = with_gradients(lambda s, y, fair=fair: ops.crps(s, y, fair=fair), s.double(), y.double())[1:]
        eps = torch.finfo(wide).eps
        size = (s.double() - y.double()[:, None]).abs().mean(1)
        assert got[0].dtype == value.dtype == wide
        for x in (got[0], value):
            assert ((x.double() - exact[0]).abs() <= 8 * eps * size).all()
        torch.testing.assert_close(got[1:], [t.to(dtype) for t in exact[1:]], rtol=2e-6 if dtype.itemsize > 2 else 0.01, atol=2e-6)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_ties_take_their_ranks_in_order_and_a_hit_has_no_slope(backend):
    s = torch.tensor([[1.0, 3.0, 1.0, 2.0]], device=DEVICE)
    y = torch.tensor([2.0], device=DEVICE)
    with ordkernels.use_backend(backend):
        _, gs, gy = with_gradients(lambda s, y: ops.crps(s, y), s, y)  # weight 0.5; lifts -3, -1, 1, 3 over 16
    assert (gs * 32).tolist() == [[-4 + 3, 4 - 3, -4 + 1, 0 - 1]]
    assert gy.item() == pytest.approx(-gs.sum().item())
    q = torch.tensor([[2.0, 3.0, 1.0]], device=DEVICE)
    with ordkernels.use_backend(backend):
        _, gq, _ = with_gradients(lambda q, y: ops.pinball(q, y, torch.tensor([0.25, 0.25, 0.25], device=DEVICE)), q, y)
    assert gq[0, 0].item() == pytest.approx(0.25 * 0.5)  # half of each side's slope, -0.25 and 0.75


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nan_and_inf_stay_in_their_rows(backend, dtype):
    s, y = make(10, 6, dtype)
    clean = with_gradients(lambda s, y: ops.crps(s, y), s, y)
    s, y = s.clone(), y.clone()
    s[1, 2], y[4] = math.nan, math.nan
    s[6, 1], s[6, 3] = math.inf, -math.inf
    with ordkernels.use_backend(backend):
        value, gs, gy = with_gradients(lambda s, y: ops.crps(s, y), s, y)
        loss, gq, _ = with_gradients(lambda s, y: ops.pinball(s, y, LEVELS[6]), s, y)
    assert value.isnan().tolist() == [b in (1, 4) for b in range(10)]
    assert torch.isinf(value[6])
    assert gs.isnan().tolist() == [[b in (1, 4) for _ in range(6)] for b in range(10)]
    assert loss.isnan().tolist() == gq.isnan().tolist() == [[b == 4 or (b, i) == (1, 2) for i in range(6)] for b in range(10)]
    keep = [0, 2, 3, 5, 7, 8, 9]
    for x, c in zip((value, gs, gy), clean, strict=True):
        torch.testing.assert_close(x[keep], c[keep])


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_rows_and_any_strides(backend):
    s, y = make(3, 4099 if backend == "cpu" else 300)
    with ordkernels.use_backend(backend):
        got = with_gradients(lambda s, y: ops.crps(s, y), s, y)
    with ordkernels.use_backend("reference"):
        want = with_gradients(lambda s, y: ops.crps(s, y), s.double(), y.double())
    torch.testing.assert_close(got[0].double(), want[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(got[1].double(), want[1], rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(got[2].double(), want[2], rtol=1e-5, atol=1e-6)
    s, y = make(12, 20)
    t, z = s.t().contiguous().t(), torch.stack((y, y), 1)
    with ordkernels.use_backend(backend):
        for f in (ops.crps, lambda s, y: ops.pinball(s, y, LEVELS[20])):
            for x, w in zip(with_gradients(lambda s, z, f=f: f(s, z[:, 0]), t, z), with_gradients(f, s, y), strict=True):
                torch.testing.assert_close(x[:, 0] if x.shape == z.shape else x, w)
            leaf = s.clone().requires_grad_()
            expanded = torch.autograd.grad(f(leaf, y[:1].expand(12)).sum(), leaf)[0]  # expanded y and upstream gradient
            leaf = s.clone().requires_grad_()
            whole = f(leaf, y[:1].repeat(12))
            torch.testing.assert_close(expanded, torch.autograd.grad(whole, leaf, torch.ones_like(whole))[0])


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("L", [1, 2, 9])
def test_gradcheck(backend, L):
    s, y = (t.requires_grad_() for t in make(3, L, torch.float64))
    with ordkernels.use_backend(backend):
        for fair in (False, True)[:L]:
            assert torch.autograd.gradcheck(lambda s, y, fair=fair: ops.crps(s, y, fair=fair), (s, y))
        assert torch.autograd.gradcheck(lambda s, y: ops.pinball(s, y, LEVELS[L]), (s, y))


@pytest.mark.registration
@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck(dtype):
    s, y = make(5, 6, dtype)
    k = torch.ops.ordkernels
    leaves = tuple(t.detach().clone().requires_grad_() for t in (s, y))
    torch.library.opcheck(k.crps.default, (*leaves, True, 3))
    torch.library.opcheck(k._crps.default, (s, y, False, 0))
    value, slopes = k._crps(s, y, False, 3)
    for grad_mask in (1, 2) if dtype == torch.float32 else (3,):
        torch.library.opcheck(k.crps_backward.default, (slopes, value, False, grad_mask))


@pytest.mark.registration
@native
@pytest.mark.parametrize("name", ["crps", "pinball"])
def test_compile_func_and_vmap(name):
    def f(s, y):
        return ops.crps(s, y, fair=True) if name == "crps" else ops.pinball(s, y, LEVELS[9])

    s, y = make(6, 9)
    with ordkernels.use_backend("reference"):
        want = with_gradients(f, s, y)
    torch.testing.assert_close(with_gradients(torch.compile(f, fullgraph=True, backend="aot_eager"), s, y), want)
    weights = torch.linspace(0.5, 2, want[0].numel(), device=DEVICE).view(want[0].shape)

    def total(s, y, w):
        return (f(s, y) * w).sum()

    torch.testing.assert_close(list(torch.func.grad(total, argnums=(0, 1))(s, y, weights)), want[1:])
    traced = torch.compile(torch.func.grad(total), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(traced(s, y, weights), want[1])
    rows = [t.view(2, 3, *t.shape[1:]) for t in (s, y, weights)]
    torch.testing.assert_close(torch.vmap(f)(*rows[:2]).flatten(0, 1), want[0])
    torch.testing.assert_close(torch.vmap(torch.func.grad(total))(*rows).flatten(0, 1), want[1])
    shared = torch.vmap(f, in_dims=(0, None))(torch.stack([s, s + 1]), y)
    torch.testing.assert_close(shared, torch.stack([f(s, y), f(s + 1, y)]))


@native
def test_what_cannot_be_differentiated_says_so():
    s, y = make(4, 6)
    s.requires_grad_()
    for f in (lambda s: ops.crps(s, y), lambda s: ops.pinball(s, y, LEVELS[6])):
        (g,) = torch.autograd.grad((f(s) ** 2).sum(), s, create_graph=True)
        with pytest.raises(RuntimeError, match="twice"):
            g.sum().backward()
        with pytest.raises(Exception, match=r"forward|jvp|dual|setup_context"):
            torch.func.jvp(f, (s.detach(),), (torch.ones_like(s),))


@native
def test_flowtimes_loss_runs_on_the_compiled_kernels():
    s, y = make(8, 20)
    with ordkernels.use_backend("cpu"):
        ops.crps(s.requires_grad_(), y, fair=True).mean().backward()
    assert s.grad.isfinite().all()
    assert ordkernels.available_backends("crps")["cpu"] == ordkernels.available_backends("pinball")["cpu"] == []


@native
@pytest.mark.skipif(DEVICE != "cpu", reason="the native kernel's own checks")
def test_the_kernel_checks_too():
    s, y = make(4, 5)
    with pytest.raises(RuntimeError, match=r"y: expected shape \[4\], got \[3\]"):
        _OP.op_without_autograd(s, y[:3], False, 0)
    with pytest.raises(RuntimeError, match="samples: expected L from 2"):
        _OP.op_without_autograd(s[:, :1], y, True, 0)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.crps([[1.0]], [1.0], fair=True), ValueError, r"samples: expected \[B, L\] with L at least 2, got \[1, 1\]"),
        (
            lambda: ops.crps([[1.0, 2.0], [3.0, math.nan]], [1.0, 2.0]),
            ValueError,
            "samples: expected no NaN, got it in 1 of 2 rows, the first at index 1",
        ),
        (lambda: ops.crps([[1.0], [2.0]], [1.0, math.nan]), ValueError, "y: expected no NaN, got it in 1 of 2 rows, the first at index 1"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("L", [2, 3, 20, 129])
def test_crps_by_definition(L, fair):
    torch.manual_seed(L)
    s, y = torch.randn(7, L, dtype=torch.float64).round(decimals=1) + 1e6, torch.randn(7, dtype=torch.float64) + 1e6
    spread = (s[:, :, None] - s[:, None, :]).abs().sum((1, 2)) / (L * (L - fair))
    expected = (s - y[:, None]).abs().mean(1) - spread / 2
    torch.testing.assert_close(ops.crps(s, y, fair=fair), expected, rtol=0, atol=1e-9)
    numpy_out = ops.crps(s.numpy(), y.numpy(), fair=fair)
    assert isinstance(numpy_out, np.ndarray)
    assert numpy_out.tolist() == ops.crps(s, y, fair=fair).tolist()


def test_crps_of_one_draw_is_the_absolute_error():
    assert ops.crps(torch.tensor([[3.0], [1.0]]), torch.tensor([1.0, 1.5])).tolist() == [2.0, 0.5]


def test_crps_without_gradients_of_samples_that_take_them():
    s, y = torch.tensor([[3.0, 1.0]], requires_grad=True), torch.tensor([1.0])
    with torch.no_grad():
        out = ops.crps(s, y)
    assert (out.tolist(), out.requires_grad) == ([0.5], False)


def test_crps_keeps_a_nan_in_its_row_in_training():
    s = torch.tensor([[1.0, math.nan], [1.0, 2.0]], requires_grad=True)
    out = ops.crps(s, torch.tensor([1.0, 1.0]))
    assert out.isnan().tolist() == [True, False]


def test_fair_crps_is_unbiased():
    # of two draws from Bernoulli(1/2), y = 0: the expectation over all draws is the CRPS of the distribution, 1/4
    draws = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)))
    assert ops.crps(draws, torch.zeros(4), fair=True).mean() == 0.25

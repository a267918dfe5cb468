"""Wasserstein quantile loss: against fp64 truth, its gradients, four ways through autograd, hostile rows."""

import os

import pytest
import torch

import ordkernels
from ordkernels.ops import wasserstein_quantile_loss
from ordkernels.ops.wasserstein_quantile_loss import _OP

DEVICE = os.environ.get("ORDKERNELS_TEST_DEVICE", "cpu")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
native = pytest.mark.native


def triton_reasons() -> str:
    return "; ".join(ordkernels.available_backends("wasserstein_quantile_loss")["triton"])


BACKENDS = [
    pytest.param("cpu", marks=[native, pytest.mark.skipif(DEVICE != "cpu", reason="native CPU kernels serve CPU tensors")]),
    pytest.param("triton", marks=[pytest.mark.triton, pytest.mark.skipif(bool(triton_reasons()), reason=triton_reasons() or "-")]),
]


def make(B: int, L: int, dtype: torch.dtype = torch.float32, ties: bool = False, seed: int = 0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(1000 * L + B + seed)
    s, u, v = (torch.randn(B, L, generator=g) * 3 for _ in range(3))
    if ties:  # among the samples, and of samples with quantiles
        s, u, v = s.round(), u.round(), v.round()
    lam = torch.rand(B, generator=g)
    return tuple(t.to(dtype).to(DEVICE) for t in (s, u.sort(-1).values, v.sort(-1).values, lam))


def truth(s: torch.Tensor, u: torch.Tensor, v: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """The formula, in torch's own ops."""
    x = s.sort(dim=-1, stable=True).values
    return (lam[:, None] * (x - u).abs() + (1 - lam[:, None]) * (x - v).abs()).mean(-1)


def with_gradients(f, *tensors: torch.Tensor) -> list[torch.Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    loss = f(*leaves)
    weights = torch.linspace(0.5, 2, loss.numel(), device=loss.device, dtype=torch.float64).to(loss.dtype)
    return [loss.detach(), *torch.autograd.grad(loss, leaves, weights)]


def ours(s: torch.Tensor, u: torch.Tensor, v: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    return wasserstein_quantile_loss(s, u, v, lam=lam)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("B", "L"), [(0, 3), (1, 1), (9, 1), (8, 2), (17, 3), (5, 20), (7, 127), (8, 128), (9, 129)])
def test_within_the_error_of_eager(backend: str, dtype: torch.dtype, B: int, L: int) -> None:
    for ties in (False, True):
        inputs = make(B, L, dtype, ties)
        with ordkernels.use_backend(backend):
            got = with_gradients(ours, *inputs)
        exact = with_gradients(truth, *(t.double() for t in inputs))
        eager = with_gradients(truth, *inputs)
        eps = torch.finfo(dtype).eps
        s, u, v, _ = (t.double() for t in inputs)
        x = s.sort(-1).values
        distance = ((x - u).abs() + (x - v).abs()).mean(-1)  # what the loss adds up, and the slope of lam cancels
        terms = (distance, 2 / L, 2 / L, 2 / L, 2 * distance)  # upstream weights go up to 2
        for x, e, t, term in zip(got, eager, exact, terms, strict=True):
            assert x.dtype == dtype
            assert x.shape == t.shape
            budget = (e.double() - t).abs() + 2 * eps * term
            assert ((x.double() - t).abs() <= budget).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_rows(backend: str) -> None:
    for L in (256, 4096, 4099) if backend == "cpu" or DEVICE != "cpu" else (256, 4097):
        inputs = make(3, L, ties=L == 4099)
        with ordkernels.use_backend(backend):
            got = with_gradients(ours, *inputs)
        for x, t in zip(got, with_gradients(truth, *(t.double() for t in inputs)), strict=True):
            torch.testing.assert_close(x.double(), t, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ties_are_stable_and_have_no_slope(backend: str, dtype: torch.dtype) -> None:
    """Equal samples (0 and -0 too) take their ranks in order; a sample on its quantile has derivative 0."""
    s = torch.tensor([[1.0, 0.0, 1.0, -0.0, 1.0]], dtype=dtype, device=DEVICE)  # ranks 2, 0, 3, 1, 4
    u = torch.tensor([[-1.0, 5.0, 1.0, 0.0, 3.0]], dtype=dtype, device=DEVICE)  # signs +, -, 0, +, - by rank
    with ordkernels.use_backend(backend):
        got = with_gradients(lambda s, u: wasserstein_quantile_loss(s, u, u, lam=1.0), s, u)
    assert (got[1] * 10).tolist() == [[0.0, 1.0, 1.0, -1.0, -1.0]]  # upstream weight 0.5 over L = 5
    assert (got[2] * 10).tolist() == [[-1.0, 1.0, 0.0, -1.0, 1.0]]


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_inf_stay_in_their_rows(backend: str, dtype: torch.dtype) -> None:
    s, u, v, lam = make(10, 6, dtype)
    clean = with_gradients(ours, s, u, v, lam)
    s, u, v, lam = (t.clone() for t in (s, u, v, lam))
    s[1, 2] = -torch.nan
    u[3, 0] = torch.nan
    lam[4] = torch.nan
    s[6, 1], s[6, 3] = torch.inf, -torch.inf
    u[8, 5], s[8, 0] = torch.inf, torch.inf  # inf - inf
    with ordkernels.use_backend(backend):
        loss, gs, gu, gv, glam = with_gradients(ours, s, u, v, lam)
    assert loss.isnan().tolist() == [b in (1, 3, 4, 8) for b in range(10)]
    assert torch.isinf(loss[6])
    assert gs[1].isnan().tolist() == [i == 2 for i in range(6)]  # where s_(l) - q_l is NaN, no more
    assert gu[1].isnan().tolist() == [i == 5 for i in range(6)]  # NaN sorts last
    assert gu[3].isnan().tolist() == [i == 0 for i in range(6)]
    assert not gv[3].isnan().any()
    assert glam[[1, 3, 8]].isnan().all()
    assert not gs[6].isnan().any()
    keep = [0, 2, 5, 7, 9]
    for x, y in zip((loss, gs, gu, gv, glam), clean, strict=True):
        torch.testing.assert_close(x[keep], y[keep])


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides(backend: str) -> None:
    s, u, v, lam = make(12, 10)
    a, b = s.t().contiguous().t(), torch.stack((u, v), -1)
    with ordkernels.use_backend(backend):
        got = with_gradients(lambda s, b, lam: ours(s, b[..., 0], b[..., 1], lam), a, b, lam)
        want = with_gradients(ours, s, u, v, lam)
        row = wasserstein_quantile_loss(s, u[:1].expand(12, 10), v, lam=0.3)
        loss = ours(s.requires_grad_(), u, v, lam)
        (g,) = torch.autograd.grad(loss.sum(), s)  # an expanded upstream gradient
    torch.testing.assert_close([got[0], got[1], got[2][..., 0], got[2][..., 1], got[3]], want)
    torch.testing.assert_close(row, truth(s, u[:1].expand(12, 10), v, torch.full((12,), 0.3, device=DEVICE)).detach())
    torch.testing.assert_close(g, torch.autograd.grad(truth(s, u, v, lam).sum(), s)[0])


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("L", [1, 2, 7, 20])
def test_gradcheck(backend: str, L: int) -> None:
    inputs = tuple(t.requires_grad_() for t in make(3, L, torch.float64))
    with ordkernels.use_backend(backend):
        assert torch.autograd.gradcheck(ours, inputs)


@pytest.mark.registration
@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    s, u, v, lam = make(5, 6, dtype)
    lam = lam.double() if dtype == torch.float64 else lam.float()
    ops = torch.ops.ordkernels
    for grad_mask in (0, 1, 15):
        leaves = tuple(t.detach().clone().requires_grad_(bool(grad_mask >> i & 1)) for i, t in enumerate((s, u, v, lam)))
        torch.library.opcheck(ops.wasserstein_quantile_loss.default, (*leaves, grad_mask))
        torch.library.opcheck(ops._wasserstein_quantile_loss.default, (s, u, v, lam, grad_mask))
    loss, signs, slope = ops._wasserstein_quantile_loss(s, u, v, lam, 15)
    for grad_mask in (1, 6, 15):
        torch.library.opcheck(ops.wasserstein_quantile_loss_backward.default, (signs, slope, lam, loss, grad_mask))
        torch.library.opcheck(ops._wasserstein_quantile_loss_backward.default, (signs, slope, lam, loss, grad_mask))


@native
def test_only_the_gradients_that_are_asked_for() -> None:
    s, u, v, lam = make(6, 9)
    want = with_gradients(truth, s, u, v, lam)
    for grad_mask in range(1, 16):
        leaves = [t.detach().clone().requires_grad_(bool(grad_mask >> i & 1)) for i, t in enumerate((s, u, v, lam))]
        loss = ours(*leaves)
        loss.backward(torch.linspace(0.5, 2, 6, device=DEVICE))
        for i, leaf in enumerate(leaves):
            if grad_mask >> i & 1:
                torch.testing.assert_close(leaf.grad, want[i + 1])
            else:
                assert leaf.grad is None
    assert torch.ops.ordkernels._wasserstein_quantile_loss(s, u, v, lam, 0)[1].numel() == 0


@pytest.mark.registration
@native
def test_compile_func_and_vmap() -> None:
    s, u, v, lam = make(6, 9)
    want = with_gradients(truth, s, u, v, lam)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(with_gradients(compiled, s, u, v, lam), want)
    only = torch.compile(lambda s: wasserstein_quantile_loss(s, u, v, lam=0.25).sum(), fullgraph=True, backend="aot_eager")
    leaf = s.clone().requires_grad_()
    only(leaf).backward()
    quarter = torch.full((6,), 0.25, device=DEVICE)
    torch.testing.assert_close(leaf.grad, torch.autograd.grad(truth(leaf, u, v, quarter).sum(), leaf)[0])

    weights = torch.linspace(0.5, 2, 6, device=DEVICE)
    grads = torch.func.grad(lambda *t: (ours(*t) * weights).sum(), argnums=(0, 1, 2, 3))(s, u, v, lam)
    torch.testing.assert_close(list(grads), want[1:])
    traced = torch.compile(torch.func.grad(lambda s: (ours(s, u, v, lam) * weights).sum()), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(traced(s), want[1])

    rows = [t.view(2, 3, *t.shape[1:]) for t in (s, u, v, lam)]
    torch.testing.assert_close(torch.vmap(ours)(*rows), want[0].view(2, 3))
    torch.testing.assert_close(
        torch.vmap(torch.func.grad(lambda s, u, v, lam, w: (ours(s, u, v, lam) * w).sum()))(*rows, weights.view(2, 3)),
        want[1].view(2, 3, 9),
    )
    shared = torch.vmap(ours, in_dims=(0, None, None, None))(torch.stack([s, s + 1]), u, v, lam)
    torch.testing.assert_close(shared, torch.stack([truth(s, u, v, lam), truth(s + 1, u, v, lam)]))
    per_row = torch.vmap(torch.func.grad(lambda s, u, v, w: ours(s[None], u[None], v[None], w[None])[0]))(s, u, v, lam)
    torch.testing.assert_close(per_row * weights[:, None], want[1])


@native
def test_what_cannot_be_differentiated_says_so() -> None:
    s, u, v, lam = make(4, 5)
    leaf = s.requires_grad_()
    (g,) = torch.autograd.grad((ours(leaf, u, v, lam) ** 2).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"twice|once_differentiable"):
        g.sum().backward()
    with pytest.raises(Exception, match=r"forward|jvp|dual|setup_context"):
        torch.func.jvp(lambda s: ours(s, u, v, lam), (s.detach(),), (torch.ones_like(s),))


@native
def test_lam_in_every_form() -> None:
    s, u, v, _ = make(4, 5)
    want = truth(s, u, v, torch.full((4,), 0.7, device=DEVICE))
    for lam in (0.7, torch.tensor(0.7, device=DEVICE), torch.full((4,), 0.7, device=DEVICE)):
        torch.testing.assert_close(wasserstein_quantile_loss(s, u, v, lam=lam), want)
    scalar = torch.tensor(0.7, device=DEVICE, requires_grad=True)
    wasserstein_quantile_loss(s, u, v, lam=scalar).sum().backward()
    x = s.sort(-1).values
    torch.testing.assert_close(scalar.grad, ((x - u).abs() - (x - v).abs()).mean(-1).sum())
    half = wasserstein_quantile_loss(*(t.bfloat16() for t in (s, u, v)), lam=torch.full((4,), 0.7, device=DEVICE))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(wasserstein_quantile_loss(s, u, v, lam=2), truth(s, u, v, torch.full((4,), 2.0, device=DEVICE)))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (dict(samples=[1.0]), TypeError, "samples: expected a torch.Tensor, got list"),
        (dict(samples=torch.zeros(4, 5, dtype=torch.int64)), TypeError, "samples: expected float32, float64, bfloat16 or float16, got"),
        (dict(samples=torch.zeros(20)), ValueError, r"samples: expected \[B, L\], got 1 dimensions, shape \[20\]"),
        (dict(samples=torch.zeros(4, 0)), ValueError, r"samples: expected \[B, L\] with L at least 1, got \[4, 0\]"),
        (dict(q_user=torch.zeros(4, 6)), ValueError, r"q_user: expected \[B, L\] = \[4, 5\], got \[4, 6\]"),
        (dict(q_item=torch.zeros(5)), ValueError, r"q_item: expected \[B, L\] = \[4, 5\], got \[5\]"),
        (dict(q_item=torch.zeros(4, 5).double()), TypeError, "q_item: expected the dtype of samples, torch.float32, got torch.float64"),
        (dict(lam=torch.zeros(3)), ValueError, r"lam: expected a float or a tensor of shape \[B\] = \[4\], got \[3\]"),
        (dict(lam=float("nan")), ValueError, "lam: expected a finite number, got nan"),
        (dict(lam="0.8"), TypeError, r"lam: expected a float or a tensor of shape \[B\], got str"),
        (dict(lam=torch.zeros(4).half()), TypeError, "lam: expected the dtype of samples, .* got torch.float16"),
    ],
)
def test_errors(change, error, text) -> None:
    args = dict(samples=torch.zeros(4, 5), q_user=torch.zeros(4, 5), q_item=torch.zeros(4, 5), lam=0.5) | change
    with pytest.raises(error, match=text):
        wasserstein_quantile_loss(args["samples"], args["q_user"], args["q_item"], lam=args["lam"])


@native
@pytest.mark.skipif(DEVICE != "cpu", reason="the native kernel's own checks")
def test_the_kernel_checks_too() -> None:
    s, u, v, lam = make(4, 5)
    with pytest.raises(RuntimeError, match="lam: expected float32, got float64"):
        _OP.op_without_autograd(s, u, v, lam.double(), 15)
    with pytest.raises(RuntimeError, match=r"q_item: expected shape \[4, 5\], got \[4, 3\]"):
        _OP.op_without_autograd(s, u, v[:, :3], lam, 15)

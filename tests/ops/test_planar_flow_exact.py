"""Planar flows of fp64 whose |w|^2 leaves its range, against arithmetic without a range."""

from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

import ordkernels
from ordkernels.ops import conditional_planar_flow, planar_flow, planar_flow_inverse
from ordkernels.testing.compare import same_bits

BACKENDS = [pytest.param("cpu", marks=pytest.mark.native), "reference"]
SIZES = [1e-300, 1e-200, 1e-155, 1e-91, 1e-89, 1.0, 1e89, 1e91, 1e160]  # 1e-91 and 1e91: where the kernels begin to scale w
DIGITS = 450  # of differences of slopes of 1e-300 and steps of 1e-30

Numbers = list[Any]


def layer(u: Numbers, w: Numbers, mode: str) -> tuple[Numbers, Any]:
    """(uhat, w.uhat)."""
    x = mpmath.fdot(u, w)
    shift = mpmath.log(mpmath.e - 1) if mode == "smooth" else 0
    m = mpmath.log1p(mpmath.exp(x + shift)) - 1
    c = (m - x) / mpmath.fdot(w, w)
    return [p + c * q for p, q in zip(u, w, strict=True)], m


def exact_row(z: Numbers, params: Numbers, mode: str, inverse: bool) -> tuple[Numbers, Any]:
    """(z_out, log_det) of one row; `params` (u, w, b) of each layer."""
    log_det = mpmath.mpf(0)
    for u, w, b in reversed(params) if inverse else params:
        uhat, s = layer(u, w, mode)
        a = mpmath.fdot(w, z) + b
        if inverse:  # Newton on a + s tanh a, which is monotone
            target = a
            for _ in range(60):
                step = (a + s * mpmath.tanh(a) - target) / (1 + s * mpmath.sech(a) ** 2)
                a -= step
                if abs(step) <= mpmath.eps * 8 * abs(a):
                    break
        t = -mpmath.tanh(a) if inverse else mpmath.tanh(a)
        z = [p + q * t for p, q in zip(z, uhat, strict=True)]
        log_det += mpmath.log(abs(1 + s * mpmath.sech(a) ** 2))
    return z, log_det


def slope(f: Callable[[Any], Any], x: Any) -> Any:
    h = abs(x) * mpmath.mpf(10) ** -30
    return (f(x + h) - f(x - h)) / (2 * h)


def exact(z: Tensor, u: Tensor, w: Tensor, b: Tensor, gz: Tensor, mode: str, inverse: bool) -> list[Tensor]:
    """Results and gradients of (gz z_out).sum() + log_det, of one row z [D] with u, w [K, D], b [K]."""
    flat = [mpmath.mpf(x) for x in torch.cat([z, u.flatten(), w.flatten(), b]).tolist()]
    K, D = u.shape

    def row(x: Numbers) -> tuple[Numbers, Any]:
        us, ws, bs = x[D : D + K * D], x[D + K * D : D + 2 * K * D], x[D + 2 * K * D :]
        return exact_row(x[:D], [(us[k * D : (k + 1) * D], ws[k * D : (k + 1) * D], bs[k]) for k in range(K)], mode, inverse)

    def loss(i: int) -> Callable[[Any], Any]:
        def of(value: Any) -> Any:
            out, log_det = row([*flat[:i], value, *flat[i + 1 :]])
            return mpmath.fdot(out, gz.tolist()) + log_det

        return of

    with mpmath.workdps(DIGITS):
        out, log_det = row(flat)
        slopes = [slope(loss(i), x) for i, x in enumerate(flat)]
        numbers = torch.tensor([float(x) for x in (*out, log_det, *slopes)], dtype=torch.float64)
    return list(numbers.split([D, 1, D, K * D, K * D, K]))


def assert_right(found: list[Tensor], want: list[Tensor]) -> None:
    """Each to some roundings of its largest number, apart from where that is below what fp64 has all its digits for."""
    for i, (f, t) in enumerate(zip(found, want, strict=True)):
        torch.testing.assert_close(
            f.reshape(t.shape), t, rtol=0, atol=max(1e-12 * float(t.abs().max()), 1e-306), msg=lambda m, i=i: f"{i}: {m}"
        )


def numbers(size: float, K: int, D: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """z [D], u, w [K, D], b [K] and the gradient of z_out, so small that no gradient of w overflows."""
    g = torch.Generator().manual_seed(K)
    z, u, w, b, gz = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((D,), (K, D), (K, D), (K,), (D,)))
    return z, u, w * size, b, gz * min(size, 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", [True, "smooth"])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_small_and_large_w(backend: str, mode: Any, inverse: bool, size: float) -> None:
    if inverse and size > 1:
        pytest.skip("a huge w makes steps, which have no inverse")
    z, u, w, b, gz = numbers(size, 2, 3)
    want = exact(z, u, w, b, gz, mode, inverse)
    op = planar_flow_inverse if inverse else planar_flow
    for rows, shared in ((1, False), (1, True), (2, False)):  # each row's own parameters, shared ones, groups of two rows
        args = [z.expand(1, rows, 3) if rows > 1 else z[None], *((u, w, b) if shared else (u[None], w[None], b[None]))]
        args = [t.clone().requires_grad_() for t in args]
        with ordkernels.use_backend(backend):
            out, log_det = op(*args, constrained=mode)
            gradients = torch.autograd.grad((out * gz).sum() + log_det.sum(), args)
        of_rows, of_params = [out, log_det, gradients[0]], [t / rows for t in gradients[1:]]
        assert_right([t.reshape(rows, -1)[-1] for t in of_rows] + of_params, want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", [True, "smooth"])
@pytest.mark.parametrize("size", [1e-200, 1e91])
def test_conditional(backend: str, mode: Any, size: float) -> None:
    z, u, w, b, gz = numbers(size, 2, 3)
    want = exact(z, u, w, b, gz, mode, inverse=False)
    bias = torch.cat([u, w, b[:, None]], 1).flatten().requires_grad_()
    z.requires_grad_()
    h, weight = torch.ones(1, 1, dtype=torch.float64), torch.zeros(len(bias), 1, dtype=torch.float64)
    with ordkernels.use_backend(backend):
        out, log_det = conditional_planar_flow(z[None], h, weight, bias, constrained=mode)
        of_z, of_bias = torch.autograd.grad((out * gz).sum() + log_det.sum(), (z, bias))
    assert_right([out, log_det, of_z, *of_bias.reshape(2, 7).split([3, 3, 1], 1)], want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [3e-15, 1e-14, 1e-12, 1e-9])
def test_slopes_along_w_in_fp32(backend: str, size: float) -> None:
    """They have 1 / |w|^4 as a factor, which overflows long before |w|^2 does."""
    args = [t.float().requires_grad_() for t in numbers(size, 1, 3)[:4]]
    direction = args[2].detach().sign()[0]
    z, u, w, b = (t.detach().double() for t in args)
    want = exact(z, u, w, b, direction.double(), "constrained", inverse=False)
    with ordkernels.use_backend(backend):
        out, log_det = planar_flow(args[0][None], *args[1:], constrained=True)
        gradients = torch.autograd.grad((out * direction).sum() + log_det.sum(), args)
    for found, true in zip(gradients, want[2:], strict=True):
        torch.testing.assert_close(found.double().reshape(true.shape), true, rtol=0, atol=1e-5 * float(true.abs().max()))


@pytest.mark.native
@pytest.mark.parametrize("mode", [True, "smooth"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rows_next_to_extreme_ones_keep_their_bits(dtype: torch.dtype, mode: Any) -> None:
    """Sizes of w and u, a row each, on both sides of where the kernels begin to scale w."""
    least, most = (-12, 12) if dtype != torch.float64 else (-92, 92)
    exponents = [least + i / 4 for i in range(17)] + [0] * 5 + [most - i / 4 for i in range(17)]
    sizes = 10.0 ** torch.tensor([(i, j) for i in exponents for j in (*exponents[::8], -30)], dtype=torch.float64)
    g = torch.Generator().manual_seed(3)
    z, u, w, b = (torch.randn(len(sizes), *s, generator=g, dtype=torch.float64) for s in ((5,), (2, 5), (2, 5), (2,)))
    args = [t.to(dtype).requires_grad_() for t in (z, u * sizes[:, 1, None, None], w * sizes[:, 0, None, None], b)]
    found = results(args, mode)
    for i in range(len(sizes)):
        alone = [t.detach()[i : i + 1].requires_grad_() for t in args]
        assert same_bits(results(alone, mode), [t[i : i + 1] for t in found]), sizes[i]


def results(args: list[Tensor], mode: Any) -> list[Tensor]:
    """Outputs and gradients."""
    out, log_det = planar_flow(*args, constrained=mode)
    gradients = torch.autograd.grad((out, log_det), args, (torch.ones_like(out), torch.ones_like(log_det)))
    return [out.detach(), log_det.detach(), *gradients]

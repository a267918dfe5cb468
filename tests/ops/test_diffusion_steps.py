"""Noising, estimates of x0 and reverse steps together: the kernels against fp64 truth, layouts, threads, Triton."""

from typing import Any

import pytest
import torch
from _diffusion import DEVICE, FLOATS, PREDICTIONS, X, everything, levels, native, needs_triton, pair
from torch import Tensor
from torch.autograd import forward_ad

import ordkernels
from ordkernels.ops import flow_sample, flow_step, predict_x0, q_sample, reverse_step
from ordkernels.testing.compare import assert_within_budget, same_bits
from ordkernels.testing.inputs import SIZES, strided


@native
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_true_outputs_lead_back_to_x0(prediction: Any) -> None:
    x0, noise = pair(7, 9)
    t, s = levels(7)
    c = t[:, None]
    true = {"eps": noise, "x0": x0, "v": c.sqrt() * noise - (1 - c).sqrt() * x0}[prediction]
    x_t = q_sample(x0, noise, t)
    x_s, est = reverse_step(x_t, true, t, s, prediction=prediction)
    torch.testing.assert_close(est, x0)
    torch.testing.assert_close(x_s, q_sample(x0, noise, s))
    x_f = flow_sample(x0, noise, t)
    back, est = flow_step(x_f, noise - x0, t, torch.zeros(()))
    torch.testing.assert_close(back, x0)
    torch.testing.assert_close(est, x0)


@native
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("form", ["number", "B", "BK", "K"])
def test_errors_keep_their_budget(dtype: torch.dtype, prediction: Any, form: str) -> None:
    for size in SIZES if form in ("number", "B") else (0, 1, 9):
        shape = (size, 11) if form in ("number", "B") else (size, 3, 11)
        (x, out), noise, x0 = pair(*shape, dtype=dtype), torch.randn(shape).to(dtype), torch.randn(shape[0], 11).to(dtype)
        t, s = (0.3, 0.6) if form == "number" else levels(*{"B": shape[:1], "BK": shape[:2], "K": shape[1:2]}[form], dtype=torch.float32)
        clip = None if form == "B" else 2.0
        got = everything(x, out, x0, noise, t, s, prediction, clip)
        with ordkernels.use_backend("reference"):
            eager = everything(x, out, x0, noise, t, s, prediction, clip)
            truth = everything(*(a.double() for a in (x, out, x0, noise)), t, s, prediction, clip)
        assert_within_budget(got, eager, truth, scale=1.0)


@native
def test_strides_do_not_matter() -> None:
    x, out, noise = *pair(4, 3, 10, dtype=torch.float32), torch.randn(4, 3, 10)
    t, s = levels(4, 3, dtype=torch.float32)
    plain = reverse_step(x, out, t, s, eta=0.5, noise=noise)
    assert same_bits(reverse_step(strided(x), strided(out), strided(t), strided(s), eta=0.5, noise=strided(noise)), plain)
    assert torch.equal(q_sample(strided(x[:, 0]), strided(noise), strided(t)), q_sample(x[:, 0], noise, t))


@pytest.mark.registration
@native
@pytest.mark.parametrize("noise", ["given", "seed"])
def test_four_ways_agree(noise: str) -> None:
    V, shape = 3, (4, 2, 5)
    xs, out = torch.randn(V, *shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    xi = torch.randn(shape, dtype=torch.float64)
    t, s = levels(*shape[:2])

    def loss(x: Tensor, out: Tensor, t: Tensor, s: Tensor) -> Tensor:
        made = dict(noise=xi) if noise == "given" else dict(seed=3, step=7)
        x_s, x0 = reverse_step(x, out, t, s, eta=0.5, prediction="v", clip=1.0, **made)
        return (x_s**2).sum() + (x0 * out).sum() + (q_sample(x0[:, 0], x, t) ** 2).sum() + predict_x0(x, out, t).sum()

    args = [a.clone().requires_grad_() for a in (xs[0], out, t, s)]
    eager = torch.autograd.grad(loss(*args), args)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    plain = [a.detach() for a in args]
    for way in (torch.autograd.grad(compiled(*args), args), torch.func.grad(loss, argnums=(0, 1, 2, 3))(*plain)):
        for a, b in zip(way, eager, strict=True):
            torch.testing.assert_close(a, b)
    each = [torch.func.grad(loss, argnums=(0, 1, 2, 3))(xs[i], *plain[1:]) for i in range(V)]
    batch = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2, 3)), in_dims=(1, None, None, None))(xs.movedim(0, 1), *plain[1:])
    for i, a in enumerate(batch):
        torch.testing.assert_close(a, torch.stack([e[i] for e in each]))


@native
def test_second_derivatives_and_forward_mode_raise() -> None:
    x, out = (a.requires_grad_() for a in pair(3, 4))
    (g,) = torch.autograd.grad(reverse_step(x, out, 0.3, 0.5, clip=1.0)[0].pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        torch.autograd.grad(g.sum(), x)
    with forward_ad.dual_level(), pytest.raises((RuntimeError, NotImplementedError)):
        forward_ad.unpack_dual(predict_x0(forward_ad.make_dual(x.detach(), out.detach()), out.detach(), 0.5))


@native
@pytest.mark.usefixtures("native")
def test_the_native_kernels_are_there() -> None:
    for op in ("q_sample", "predict_x0", "reverse_step", "flow_sample", "flow_step"):
        assert ordkernels.available_backends(op)["cpu"] == []
    with ordkernels.use_backend("cpu"):
        assert everything(X, X, X, X, 0.5, 0.6, "v", None)


@pytest.mark.triton
@needs_triton
@pytest.mark.parametrize(
    ("dtype", "shape", "form", "prediction", "clip"),
    [
        (torch.float32, (5, 7), "number", "eps", 2.0),
        (torch.float64, (3, 2, 6), "BK", "v", None),
        (torch.float32, (3, 2, 5), "B1", "x0", 1.0),
        (torch.bfloat16, (2, 3, 8), "K", "v", None),
        (torch.float16, (130, 4), "B", "eps", None),
        (torch.float64, (2, 1100), "number", "x0", 1.0),
        (torch.float32, (2, 1100), "B", "v", None),
        (torch.float32, (0, 5), "number", "v", None),
    ],
)
def test_triton_keeps_its_budget(dtype: torch.dtype, shape: tuple[int, ...], form: str, prediction: Any, clip: float | None) -> None:
    (x, out), noise, x0 = pair(*shape, dtype=dtype), torch.randn(shape).to(dtype), torch.randn(shape[0], shape[-1]).to(dtype)
    t: Any = 0.3
    s: Any = 0.6
    if form != "number":
        t, s = levels(*{"B": shape[:1], "BK": shape[:2], "K": shape[1:2], "B1": (shape[0], 1)}[form], dtype=torch.float32)
        t, s = t.to(DEVICE), s.to(DEVICE)
    x, out, x0, noise = (a.to(DEVICE) for a in (x, out, x0, noise))
    with ordkernels.use_backend("triton"):
        got = everything(x, out, x0, noise, t, s, prediction, clip)
    with ordkernels.use_backend("reference"):
        eager = everything(x, out, x0, noise, t, s, prediction, clip)
        truth = everything(*(a.double() for a in (x, out, x0, noise)), t, s, prediction, clip)
    assert_within_budget(got, eager, truth, scale=1.0)

"""Planar flows on Triton: in the interpreter (TRITON_INTERPRET=1, CPU tensors) or on a GPU, held to an fp64 truth.

Error budget: |kernel - truth| <= 2 |eager reference - truth| + a few roundings of the dtype, both measured on the largest element.
"""

import importlib.util
import os

import pytest
import torch

from ordkernels import use_backend
from ordkernels.ops import conditional_planar_flow, planar_flow, planar_flow_inverse

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
GPU = torch.cuda.is_available() and not INTERPRET
DEVICE = os.environ.get("ORDKERNELS_TEST_DEVICE", "cuda" if GPU else "cpu")
pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(not (INTERPRET or GPU), reason="neither TRITON_INTERPRET=1 (before the first import) nor a GPU"),
]
MODES = [True, "smooth", False]
# fp32: exp and log of a GPU are a few roundings off. 16 bits: one rounding, and the interpreter cuts bf16 off instead of rounding it.
ROUNDINGS = {torch.float32: 24 * 2**-24, torch.float64: 64 * 2**-53, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def inputs(B, K, D, form="row", dtype=torch.float32, N=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = (B, N, D) if form == "group" else (B, D)
    p = (K, D) if form == "shared" else (B, K, D)
    scale = D**-0.5  # w.u and w.z of order 1
    return [(torch.randn(s, generator=g) * f).to(dtype).to(DEVICE) for s, f in ((z, 1), (p, scale), (p, scale), (p[:-1], 1))]


def both(flow, args, backend, mode, grad=True):
    args = [a.detach().requires_grad_(grad) for a in args]
    with use_backend(backend):
        z, log_det = flow(*args, constrained=mode)
    if not grad:
        return z, log_det
    g = torch.Generator().manual_seed(1)
    gz, gl = (torch.randn(t.shape, generator=g).to(t) for t in (z, log_det))
    return (z.detach(), log_det.detach(), *torch.autograd.grad((z, log_det), args, (gz, gl)))


def check(flow, args, mode, roundings=1.0):
    got, eager = both(flow, args, "triton", mode), both(flow, args, "reference", mode)
    # the same gradients of the outputs: drawn in fp32, rounded to the dtype under test
    dtype = args[0].dtype
    wide = [a.double().requires_grad_() for a in args]
    with use_backend("reference"):
        z, log_det = flow(*wide, constrained=mode)
    g = torch.Generator().manual_seed(1)
    gz, gl = torch.randn(z.shape, generator=g).to(dtype).to(z), torch.randn(log_det.shape, generator=g).to(z)
    truth = (z.detach(), log_det.detach(), *torch.autograd.grad((z, log_det), wide, (gz, gl)))
    for name, x, e, t in zip(("z", "log_det", "g0", "g1", "g2", "g3"), got, eager, truth, strict=True):
        assert (x.dtype, x.shape) == (e.dtype, e.shape), name
        if t.numel() == 0:
            continue
        error, floor = (x.double() - t).abs().max().item(), (e.double() - t).abs().max().item()
        budget = 2 * floor + roundings * ROUNDINGS[x.dtype] * (1 + t.abs().max().item())
        assert error <= budget, f"{name}: error {error:.3g}, eager {floor:.3g}, budget {budget:.3g}"
    return got


@pytest.mark.parametrize("form", ["row", "shared", "group"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("B", "K", "D"), [(5, 4, 7), (1, 1, 1)])
def test_forward_and_backward(form, mode, B, K, D):
    check(planar_flow, inputs(B, K, D, form), mode)


@pytest.mark.parametrize("form", ["row", "shared", "group"])
@pytest.mark.parametrize("mode", MODES[:2])
def test_inverse_and_its_backward(form, mode):
    check(planar_flow_inverse, inputs(5, 4, 7, form), mode, roundings=8)


@pytest.mark.parametrize(("B", "K", "D"), [(33, 4, 64), (2, 6, 129), (3, 16, 5)])
def test_sizes_past_a_block(B, K, D):
    check(planar_flow, inputs(B, K, D), True, roundings=4)


@pytest.mark.parametrize("flow", [planar_flow, planar_flow_inverse])
@pytest.mark.parametrize(("form", "B", "N"), [("shared", 37, 1), ("group", 2, 37)])
def test_several_tiles_share_parameters(flow, form, B, N):
    """37 rows of 129 columns are more than a tile: gradients are summed over tiles, and twice the same bits."""
    args = inputs(B, 2, 129, form, N=N)
    got = check(flow, args, True, roundings=8)
    assert all(map(torch.equal, got, both(flow, args, "triton", True)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["row", "shared"])
def test_dtypes(dtype, form):
    check(planar_flow, inputs(5, 2, 7, form, dtype), True)
    check(planar_flow_inverse, inputs(5, 2, 7, form, dtype), True, roundings=8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wu", [-1e4, -100.0, -80.0, 0.0, 1e4])
def test_saturated_and_dead_layers(mode, wu):
    """w.u far out on both sides, and w = 0."""
    z, u, w, b = inputs(4, 2, 8)
    w = w / w.norm(dim=-1, keepdim=True)
    u = w * wu
    if wu == 0:
        u, w = torch.randn_like(u), torch.zeros_like(w)
    check(planar_flow, [z, u, w, b * 0 if wu == -100.0 else b], mode, roundings=4)


@pytest.mark.parametrize("flow", [planar_flow, planar_flow_inverse])
def test_nan_stays_in_its_row(flow):
    args = inputs(5, 2, 7)
    clean = both(flow, args, "triton", True)
    args[0][2, 3] = torch.nan
    for x, y in zip(both(flow, args, "triton", True), clean, strict=True):
        keep = torch.tensor([0, 1, 3, 4], device=x.device)
        assert torch.equal(x[keep], y[keep])
        assert x[2].isnan().any()


@pytest.mark.parametrize("mode", MODES[:2])
def test_round_trip(mode):
    z, u, w, b = inputs(9, 4, 6)
    with use_backend("triton"):
        out, log_det = planar_flow(z, u * 3, w * 3, b, constrained=mode)
        back, again = planar_flow_inverse(out, u * 3, w * 3, b, constrained=mode)
    torch.testing.assert_close(back, z, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(again, log_det, rtol=1e-3, atol=1e-3)


def test_slices_of_one_tensor_are_read_in_place():
    """u, w and b as slices of a hypernetwork's output, a transposed z, an expanded gradient."""
    B, K, D = 4, 3, 6
    z, p = inputs(B, 1, D)[0].T.contiguous().T, torch.randn(B, K, 2 * D + 1, device=DEVICE)
    u, w, b = p[..., :D], p[..., D : 2 * D], p[..., 2 * D]
    grads = []
    for args in ((z, u, w, b), [t.contiguous() for t in (z, u, w, b)]):
        leaves = [t.detach().requires_grad_() for t in args]
        with use_backend("triton"):
            out, log_det = planar_flow(*leaves)
        grads.append(torch.autograd.grad(out.sum() + log_det.sum(), leaves))
    assert all(map(torch.equal, *grads))


@pytest.mark.parametrize("K", [1, 3])
def test_offsets_past_two_to_the_31st(K):
    """Rows of z, and rows or layers of u, 2^30 elements apart: the third starts at 2^31. (The memory is reserved, hardly touched.)"""
    far = 2**30
    try:
        base = torch.empty(2 * far + 64, dtype=torch.float16, device=DEVICE)
    except RuntimeError as e:
        pytest.skip(f"cannot reserve 4 GB: {e}")
    z, u, w, b = inputs(3, K, 8, dtype=torch.float16)
    zs, us = base.as_strided((3, 8), (far, 1)), base.as_strided((3, K, 8), (far, 8, 1) if K == 1 else (8, far, 1), 8)
    zs.copy_(z)
    us.copy_(u)
    for got, want in zip(both(planar_flow, (zs, us, w, b), "triton", True), both(planar_flow, (z, u, w, b), "triton", True), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("form", ["row", "shared", "group"])
@pytest.mark.parametrize("flow", [planar_flow, planar_flow_inverse])
def test_empty(form, flow):
    for args in [inputs(0, 2, 3, form)] if form != "group" else [inputs(0, 2, 3, form), inputs(2, 2, 3, form, N=0)]:
        check_empty(flow, args)


def check_empty(flow, args):
    """Outputs of their shapes, gradients of no rows: zeros."""
    z, log_det, *grads = both(flow, args, "triton", True)
    assert (z.shape, log_det.shape) == (args[0].shape, args[0].shape[:-1])
    assert all(torch.equal(g, torch.zeros_like(a)) for g, a in zip(grads, args, strict=True))


def conditional(z_shape, K, H, dtype=torch.float32):
    g = torch.Generator().manual_seed(2)
    B, D = z_shape[0], z_shape[-1]
    P = K * (2 * D + 1)
    shapes = ((z_shape, 1), ((B, H), 1), ((P, H), (D * H) ** -0.5), ((P,), 0.3 * D**-0.5))
    return [(torch.randn(s, generator=g) * f).to(dtype).to(DEVICE) for s, f in shapes]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "K", "H"), [((5, 7), 4, 9), ((4, 3, 5), 2, 6)])
def test_conditional(mode, shape, K, H):
    check(conditional_planar_flow, conditional(shape, K, H), mode, roundings=4)


@pytest.mark.parametrize(("shape", "K", "H"), [((33, 64), 2, 40), ((1, 1), 1, 1), ((3, 129), 1, 16), ((2, 300), 1, 5)])
def test_conditional_sizes(shape, K, H):
    check(conditional_planar_flow, conditional(shape, K, H), True, roundings=4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_conditional_dtypes(dtype):
    check(conditional_planar_flow, conditional((5, 7), 2, 9, dtype), True, roundings=4)


def test_conditional_in_slabs(monkeypatch):
    """Several slabs of rows give what one gives, and none of them is large."""
    from ordkernels._triton import conditional_planar_flow as module

    args = conditional((60, 5), 2, 6)
    monkeypatch.setattr(module, "WORKSPACE", 0)
    assert len(module._slabs(60, args[2])) == 30
    check(conditional_planar_flow, args, True, roundings=4)


def test_conditional_empty():
    args = conditional((0, 5), 2, 6)
    check_empty(conditional_planar_flow, args)


def test_conditional_nan_stays_in_its_row():
    args = conditional((5, 7), 2, 9)
    clean = both(conditional_planar_flow, args, "triton", True)
    args[1][2, 3] = torch.nan
    for x, y in zip(both(conditional_planar_flow, args, "triton", True)[:4], clean, strict=False):
        keep = torch.tensor([0, 1, 3, 4], device=x.device)
        assert torch.equal(x[keep], y[keep])

"""The inverse of planar flows: error of a layer, residual, round trip, the hardest starts."""

from typing import Any

import pytest
import torch
from _planar_flow import FLOATS, KERNEL, NUMBER, native
from torch import Tensor

from ordkernels.ops import planar_flow, planar_flow_inverse
from ordkernels.reference import planar_flow as reference
from ordkernels.reference import planar_flow_inverse as inverse_reference
from ordkernels.reference._planar_flow import layer_terms
from ordkernels.testing.inputs import flow_inputs


def uhat_norm(u: Tensor, w: Tensor, mode: int) -> Tensor:
    return layer_terms(u.double(), w.double(), mode)[0].norm(dim=-1)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("mode", [True, "smooth"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@native
def test_inverse_error_of_one_layer(dtype: torch.dtype, mode: Any, scale: float) -> None:
    """|inverse(y) - truth| <= 16 eps (|z| + |uhat|) / min(1, det), row by row."""
    z, u, w, b = (t.to(dtype) for t in flow_inputs(500, 1, 16, dtype=torch.float64))
    u, w = (u * scale).to(dtype), (w * scale).to(dtype)
    exact = [t.double() for t in (z, u, w, b)]
    truth, log_det, _ = inverse_reference.planar_flow_inverse(*exact, NUMBER[mode])
    got = planar_flow_inverse(z, u, w, b, constrained=mode)[0].double()
    size = torch.maximum(truth.norm(dim=-1), exact[0].norm(dim=-1)) + uhat_norm(u, w, NUMBER[mode])[:, 0]
    bound = 16 * torch.finfo(dtype).eps * size / log_det.exp().clamp(max=1)
    assert ((got - truth).norm(dim=-1) <= bound).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ["normal", "dead", "saturated"])
@pytest.mark.parametrize("K", [1, 4, 16])
@native
def test_inverse_residual(dtype: torch.dtype, kind: str, K: int) -> None:
    """|flow(inverse(y)) - y| <= 16 eps K max_k (|z_k| + |uhat_k|), the flow in fp64."""
    y, u, w, b = flow_inputs(300, K, 16, dtype=dtype, kind=kind)
    z = planar_flow_inverse(y, u, w, b)[0].double()
    exact = [t.double() for t in (u, w, b)]
    sizes, x = [], z
    for k in range(K):
        sizes.append(x.norm(dim=-1) + uhat_norm(u, w, 1)[:, k])
        x = reference.planar_flow(x, *(t[:, k : k + 1] for t in exact), 1)[0]
    bound = 16 * torch.finfo(dtype).eps * K * torch.stack(sizes).amax(0)
    assert ((x - y.double()).norm(dim=-1) <= bound).all()


@native
def test_inverse_log_det_and_round_trip() -> None:
    z, u, w, b = flow_inputs(65, 4, 12, dtype=torch.float64)
    out, log_det = planar_flow(z, u, w, b)
    back, same_det = planar_flow_inverse(out, u, w, b)
    torch.testing.assert_close(back, z, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(same_det, log_det, rtol=1e-10, atol=1e-10)


@native
def test_inverse_from_the_hardest_starts() -> None:
    """s = w.uhat from -1 (a triple root at 0) to 1e4, and a from 1e-6 to 50."""
    s = torch.cat([-1 + torch.logspace(-7, 0, 60, dtype=torch.float64), torch.logspace(-3, 4, 60, dtype=torch.float64)])
    a = torch.logspace(-6, 1.7, 80, dtype=torch.float64)
    s, a = (t.flatten() for t in torch.meshgrid(s, a, indexing="ij"))
    x = torch.where(s > 30, s + 1, torch.log(torch.expm1(s + 1)))  # softplus(x) - 1 = s
    for dtype in (torch.float32, torch.float64):
        w, u, r = torch.ones(len(s), 1, 1, dtype=dtype), x[:, None, None].to(dtype), (a + s * torch.tanh(a))[:, None].to(dtype)
        got = KERNEL._planar_flow_inverse(r, u, w, torch.zeros_like(w[:, 0]), 1)[2][:, 0].double()
        real = torch.nn.functional.softplus(u[:, 0, 0].double(), threshold=1e3) - 1
        residual = (got + real * torch.tanh(got) - r[:, 0].double()).abs()
        assert (residual <= 8 * torch.finfo(dtype).eps * (got.abs() + real.abs() + r[:, 0].double().abs())).all()

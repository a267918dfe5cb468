"""Planar flows in plain torch: the definition of ``planar_flow``."""

import torch
from torch import Tensor

from ._planar_flow import CONSTRAINED, collect, layer_gradients, layer_terms, log_abs_det, log_det_slopes, sech2, to_groups


def planar_flow(z: Tensor, u: Tensor, w: Tensor, b: Tensor, mode: int = CONSTRAINED) -> tuple[Tensor, Tensor, Tensor]:
    """z [B,D] | [B,N,D]; u, w [B,K,D] | [K,D]; b [B,K] | [K] -> z_out like z, log_det [B] | [B,N], act [..., K] (the a_k)."""
    zg, ug, wg, bg = to_groups(z, u, w, b)
    log_det, act = torch.zeros_like(zg[..., 0]), []
    for uk, wk, bk in zip(ug.unbind(1), wg.unbind(1), bg.unbind(1), strict=True):
        uhat, _, s, x, *_ = layer_terms(uk, wk, mode)
        a = (zg * wk[:, None]).sum(-1) + bk[:, None]  # [G,N]
        log_det = log_det + log_abs_det(a, s, x, mode)
        zg = zg + uhat[:, None] * torch.tanh(a)[..., None]
        act.append(a)
    return (
        zg.reshape(z.shape).to(z.dtype, copy=True),
        log_det.reshape(z.shape[:-1]),
        torch.stack(act, -1).reshape(*z.shape[:-1], u.shape[-2]),
    )


def planar_flow_backward(
    z: Tensor, act: Tensor, u: Tensor, w: Tensor, gz_out: Tensor, gl: Tensor, mode: int = CONSTRAINED
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, u, w, b. The states are rebuilt from the input z: going back from a rounded z_K would cancel."""
    zg, ug, wg = to_groups(z, u, w)
    G, N, _ = zg.shape
    g, ag, gl = gz_out.reshape(zg.shape).to(zg.dtype), act.reshape(G, N, u.shape[-2]), gl.reshape(G, N).to(zg.dtype)
    layers = [layer_terms(uk, wk, mode) for uk, wk in zip(ug.unbind(1), wg.unbind(1), strict=True)]
    states = [zg]
    for k, (uhat, *_) in enumerate(layers[:-1]):
        states.append(states[-1] + uhat[:, None] * torch.tanh(ag[..., k, None]))
    grads = []
    for k in range(len(layers) - 1, -1, -1):
        uhat, c, s, x, size, slope = layers[k]
        a = ag[..., k]
        by_a, by_x = log_det_slopes(a, s, x, slope, mode)
        ga = (g * uhat[:, None]).sum(-1) * sech2(a) + gl * by_a  # [G,N]
        pulled = (torch.tanh(a)[..., None] * g).sum(1)  # gradient of uhat [G,D]
        gx = (gl * by_x).sum(1, keepdim=True)
        grads.append(layer_gradients(ug[:, k], wg[:, k], c, size, slope, pulled, gx, ga, states[k]))
        g = g + ga[..., None] * wg[:, k, None]
    return collect(g, grads[::-1], z, u, w)

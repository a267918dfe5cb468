"""Networks of one hidden layer in plain torch: the definition of ``mlp``."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ._common import compute_dtype, empty_unless
from ._dropout import dropout_factors


def mlp(
    x: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    cond: Tensor | None,
    time: Tensor | None,
    w_out: Tensor,
    b_out: Tensor | None,
    cond_index: Tensor | None,
    time_index: Tensor | None,
    seed: Tensor | None,
    row_ids: Tensor | None,
    dropout: float,
) -> Tensor:
    """x [R, D] through w_in [H, D], w_out [O, H] -> [R, O]; or x [R, G or 1, D] through [G, H, D], [G, O, H] -> [R, G, O]."""
    dtype = compute_dtype(x)
    z = _before_activation(x.to(dtype), w_in, b_in, ((cond, cond_index), (time, time_index)))
    h = F.silu(z)
    if seed is not None and dropout:
        h = h * _factors(h, seed, row_ids, dropout)
    return _linear(h, w_out, b_out).to(x.dtype)


def mlp_backward(
    x: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    cond: Tensor | None,
    time: Tensor | None,
    w_out: Tensor,
    b_out: Tensor | None,
    cond_index: Tensor | None,
    time_index: Tensor | None,
    seed: Tensor | None,
    row_ids: Tensor | None,
    g: Tensor,
    dropout: float,
    grad_mask: int,
) -> tuple[Tensor, ...]:
    """Gradients of the first seven, empty where they are not asked for."""
    dtype, storage, grouped = compute_dtype(x), x.dtype, w_in.dim() == 3
    x, g, w_in, w_out = (t.to(dtype) for t in (x, g, w_in, w_out))
    z = _before_activation(x, w_in, b_in, ((cond, cond_index), (time, time_index)))
    if not grouped:
        x, g, w_in, w_out, z = x[:, None], g[:, None], w_in[None], w_out[None], z[:, None]
    factors = _factors(z, seed, row_ids, dropout) if seed is not None and dropout else torch.ones((), dtype=dtype, device=x.device)
    s = torch.sigmoid(z)
    h = z * s * factors  # [R, G, H]
    gz = torch.einsum("rgo,goh->rgh", g, w_out) * factors * s * (1 + z * (1 - s))
    gx = torch.einsum("rgh,ghd->rgd", gz, w_in)
    gx = gx if x.shape[1] > 1 or len(w_in) == 1 else gx.sum(1, keepdim=True)
    gw_in = torch.einsum("rgh,rgd->ghd", gz, x.expand(-1, len(w_in), -1))
    gw_out = torch.einsum("rgo,rgh->goh", g, h)
    found = [gx, gw_in, gz.sum(0), gw_out, g.sum(0)]
    if not grouped:
        found = [gx[:, 0], *(t.squeeze(0) for t in found[1:])]
    tables = [_table_gradient(gz[:, 0], rows, index) for rows, index in ((cond, cond_index), (time, time_index))]
    gradients = [*found[:3], *tables, *found[3:]]
    there = (True, True, b_in is not None, cond is not None, time is not None, True, b_out is not None)
    return tuple(empty_unless(a and grad_mask >> i & 1, t.to(storage)) for i, (a, t) in enumerate(zip(there, gradients, strict=True)))


def _before_activation(x: Tensor, w: Tensor, b: Tensor | None, tables: tuple[tuple[Tensor | None, Tensor | None], ...]) -> Tensor:
    """The hidden layer before its activation: [R, H] or [R, G, H]."""
    z = _linear(x, w, b)
    for rows, index in tables:
        if rows is not None:
            z = z + (rows if index is None else rows.index_select(0, index)).to(z.dtype)
    return z


def _linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """Of one network, or of each of G: x [R, G or 1, D], w [G, H, D] -> [R, G, H]."""
    w, b = w.to(x.dtype), None if b is None else b.to(x.dtype)
    if w.dim() == 2:
        return F.linear(x, w, b)
    y = torch.matmul(x.expand(-1, len(w), -1).transpose(0, 1), w.transpose(1, 2)).transpose(0, 1)
    return y if b is None else y + b


def _factors(h: Tensor, seed: Tensor, row_ids: Tensor | None, p: float) -> Tensor:
    """Of the hidden layer [R, H] or [R, G, H], whose networks share them."""
    ids = torch.arange(len(h), device=h.device) if row_ids is None else row_ids
    f = dropout_factors(ids, h.shape[-1], seed, p).to(h.dtype)
    return f if h.dim() == 2 else f[:, None]


def _table_gradient(gz: Tensor, rows: Tensor | None, index: Tensor | None) -> Tensor:
    """gz [R, H] -> like rows [T, H]."""
    if rows is None:
        return gz.new_empty(0)
    if index is not None:
        return gz.new_zeros(rows.shape).index_add(0, index, gz)
    return gz if len(rows) == len(gz) else gz.sum(0, keepdim=True)

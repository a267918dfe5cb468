"""A Transformer layer on packed sequences in plain torch: the definition of ``sequence_layer``."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ._common import compute_dtype, empty_unless
from ._dropout import WIDTH, dropout_factors

ACTIVATIONS = ("silu", "relu", "gelu")
WEIGHTS = 14
ATTENTION, FEED_FORWARD, MEMORY = 0, 1, 2  # dropouts of one layer


class Forward(NamedTuple):
    """What a layer computes on its way."""

    inputs: Tensor  # of the attention [N, W]
    qkv: Tensor  # [N, 3 W]
    attended: Tensor  # [N, W]
    z1: Tensor  # [N, W]: x and what the attention adds
    x1: Tensor  # the same, normalised in post-norm
    z2: Tensor  # and what the memory adds
    x2: Tensor  # the same, normalised in post-norm
    hidden_inputs: Tensor  # [N, W]
    h: Tensor  # [N, F], before the activation
    z3: Tensor  # [N, W]: x2 and what the feed-forward part adds
    y: Tensor


def sequence_layer(
    x: Tensor,
    memory: Tensor | None,
    *arguments: Any,  # 14 weights, offsets, seed, row_ids; heads, activation, pre_norm, causal, eps, dropout, step, grad_mask
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x [N, W], offsets [S + 1], memory [S, W] -> y [N, W], and what backward needs: qkv, z1, h, z3; empty without gradients. Rows behind
    the last sequence are 0."""
    used, others = _used(x, arguments[WEIGHTS])
    f = _forward(x[:used], memory, *arguments[:-1])
    saved = [F.pad(t, others) if arguments[-1] else t[:0] for t in (f.qkv, f.z1, f.h, f.z3)]
    pre_norm = arguments[WEIGHTS + 5]
    return F.pad(f.y.to(x.dtype), others), saved[0], saved[1], saved[2], saved[3][:0] if pre_norm else saved[3]


def _used(x: Tensor, offsets: Tensor) -> tuple[int, tuple[int, int, int, int]]:
    """How many tokens are in sequences, and the padding of rows for the others."""
    used = int(offsets[-1])
    return used, (0, 0, 0, len(x) - used)


def _forward(
    x: Tensor,
    memory: Tensor | None,
    *arguments: Any,
) -> Forward:
    weights, (offsets, seed, row_ids, heads, activation, pre_norm, causal, eps, dropout, step) = arguments[:WEIGHTS], arguments[WEIGHTS:]
    dtype, W = compute_dtype(x), x.shape[1]
    x = x.to(dtype)
    cast: list[Any] = [None if w is None else w.to(dtype) for w in weights]
    n1w, n1b, qkv_w, qkv_b, out_w, out_b, n2w, n2b, w1, b1, w2, b2, n3w, n3b = cast

    def norm(t: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.layer_norm(t, (W,), w, b, eps)

    factors = _factors(offsets, seed, row_ids, W, dropout, step, dtype)
    inputs = norm(x, n1w, n1b) if pre_norm else x
    qkv = F.linear(inputs, qkv_w, qkv_b)
    attended = _attention(qkv, offsets, heads, causal)
    z1 = x + factors[ATTENTION] * F.linear(attended, out_w, out_b)
    x1 = z2 = z1 if pre_norm else norm(z1, n1w, n1b)
    if memory is not None:
        z2 = x1 + (factors[MEMORY] * memory.to(dtype))[_sequence_of(offsets, len(x))]
    x2 = z2 if pre_norm or memory is None else norm(z2, n3w, n3b)
    hidden_inputs = norm(x2, n2w, n2b) if pre_norm else x2
    h = F.linear(hidden_inputs, w1, b1)
    z3 = x2 + factors[FEED_FORWARD] * F.linear(_activate(h, activation), w2, b2)
    y = z3 if pre_norm else norm(z3, n2w, n2b)
    return Forward(inputs, qkv, attended, z1, x1, z2, x2, hidden_inputs, h, z3, y)


def sequence_layer_backward(
    x: Tensor,
    memory: Tensor | None,
    *arguments: Any,  # 14 weights, offsets, seed, row_ids; qkv, z1, h, z3, g; heads, ..., step; grad_mask
) -> tuple[Tensor, ...]:
    """Gradients of x, memory and the 14 weights, empty where they are not asked for. What forward saved is computed again."""
    weights, (offsets, seed, row_ids), saved, constants = (
        arguments[:WEIGHTS], arguments[WEIGHTS : WEIGHTS + 3], arguments[WEIGHTS + 3 : WEIGHTS + 8], arguments[WEIGHTS + 8 :],
    )  # fmt: skip
    heads, activation, pre_norm, causal, eps, dropout, step, mask = constants
    used, others = _used(x, offsets)
    x = x[:used]
    f = _forward(x, memory, *weights, offsets, seed, row_ids, *constants[:-1])
    dtype, storage, dy = f.y.dtype, x.dtype, saved[4][:used].to(f.y.dtype)
    matrices: list[Any] = [None if w is None else w.to(dtype) for w in weights[::2]]
    n1w, qkv_w, out_w, n2w, w1, w2, n3w = matrices
    factors = _factors(offsets, seed, row_ids, x.shape[1], dropout, step, dtype)
    none = x.new_empty(0)

    g, norm2 = (dy, (none, none)) if pre_norm else _norm_backward(f.z3, n2w, dy, eps)
    added = factors[FEED_FORWARD] * g
    linear2 = added.T @ _activate(f.h, activation), added.sum(0)
    gh = (added @ w2) * _slope(f.h, activation)
    linear1 = gh.T @ f.hidden_inputs, gh.sum(0)
    if pre_norm:
        through, norm2 = _norm_backward(f.x2, n2w, gh @ w1, eps)
        g = g + through
    else:
        g = g + gh @ w1
    norm3, gm = (none, none), none
    if memory is not None:
        if not pre_norm:
            g, norm3 = _norm_backward(f.z2, n3w, g, eps)
        gm = factors[MEMORY] * g.new_zeros(memory.shape).index_add(0, _sequence_of(offsets, len(x)), g)
    norm1 = none, none
    if not pre_norm:
        g, norm1 = _norm_backward(f.z1, n1w, g, eps)
    added = factors[ATTENTION] * g
    out = added.T @ f.attended, added.sum(0)
    gqkv = _attention_backward(f.qkv, added @ out_w, offsets, heads, causal)
    qkv = gqkv.T @ f.inputs, gqkv.sum(0)
    through = gqkv @ qkv_w
    if pre_norm:
        through, norm1 = _norm_backward(x.to(dtype), n1w, through, eps)
    found = (F.pad(g + through, others), gm, *norm1, *qkv, *out, *norm2, *linear1, *linear2, *norm3)
    return tuple(empty_unless(mask >> i & 1, t.to(storage)) for i, t in enumerate(found))


def _sequence_of(offsets: Tensor, N: int) -> Tensor:
    """[N]: the sequence of each token."""
    return torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff(), output_size=N)


def _factors(
    offsets: Tensor, seed: Tensor | None, row_ids: Tensor | None, W: int, p: float, step: int, dtype: torch.dtype
) -> tuple[Any, Any, Any]:
    """Of the attention [N, W], the feed-forward part [N, W] and the memory [S, W], or 1.

    A token's blocks follow those of the tokens before it, in the stream of its sequence's row id.
    """
    if seed is None or not p:
        return 1.0, 1.0, 1.0
    S = len(offsets) - 1
    ids = torch.arange(S, device=offsets.device) if row_ids is None else row_ids
    lengths, blocks = offsets.diff(), -(-W // WIDTH)
    longest = int(lengths.max()) if S else 0
    there = torch.arange(longest, device=offsets.device) < lengths[:, None]  # [S, L]

    def tokens(site: int) -> Tensor:
        all_of_them = dropout_factors(ids, longest * blocks * WIDTH, seed, p, step + site)
        return all_of_them.view(S, longest, blocks * WIDTH)[there][:, :W].to(dtype)

    return tokens(ATTENTION), tokens(FEED_FORWARD), dropout_factors(ids, W, seed, p, step + MEMORY).to(dtype)


def _heads(t: Tensor, offsets: Tensor, heads: int, parts: int) -> tuple[Tensor, Tensor]:
    """Packed [N, parts W] -> padded [parts, S, heads, L, W / heads], and which tokens exist [S, L]."""
    lengths = offsets.diff()
    L = int(lengths.max()) if len(lengths) else 0
    there = torch.arange(L, device=t.device) < lengths[:, None]
    padded = t.new_zeros(*there.shape, t.shape[1]).index_put((there,), t)
    return padded.view(*there.shape, parts, heads, t.shape[1] // (parts * heads)).permute(2, 0, 3, 1, 4), there


def _shares(q: Tensor, k: Tensor, there: Tensor, causal: bool) -> Tensor:
    """Softmax over the keys, [S, heads, L, L]; 0 for keys that are not there."""
    L = there.shape[1]
    seen = there[:, None, None, :].expand(-1, 1, L, L)
    if causal:
        seen = seen & torch.ones(L, L, dtype=torch.bool, device=q.device).tril()
    seen = seen | ~there[:, None, :, None]  # a query that is not there sees zeros: no NaN
    return torch.softmax((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf), -1)


def _attention(qkv: Tensor, offsets: Tensor, heads: int, causal: bool) -> Tensor:
    (q, k, v), there = _heads(qkv, offsets, heads, 3)
    return (_shares(q, k, there, causal) @ v).transpose(1, 2).flatten(2)[there]


def _attention_backward(qkv: Tensor, g: Tensor, offsets: Tensor, heads: int, causal: bool) -> Tensor:
    """The gradient of qkv [N, 3 W] from that of the heads' outputs [N, W]."""
    (q, k, v), there = _heads(qkv, offsets, heads, 3)
    (go,), _ = _heads(g, offsets, heads, 1)
    p = _shares(q, k, there, causal)
    gp = go @ v.transpose(-1, -2)
    gs = p * (gp - (p * gp).sum(-1, keepdim=True)) / q.shape[-1] ** 0.5
    gs = torch.where(there[:, None, :, None], gs, 0.0)
    parts = torch.stack((gs @ k, gs.transpose(-1, -2) @ q, p.transpose(-1, -2) @ go))  # [3, S, heads, L, W / heads]
    return parts.permute(1, 3, 0, 2, 4).flatten(2)[there]


def _norm_backward(x: Tensor, weight: Tensor, g: Tensor, eps: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The gradients of x, and of the norm's weight and bias."""
    centred = x - x.mean(1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(1, keepdim=True) + eps)
    h, gw = centred * scale, g * weight
    gx = (gw - gw.mean(1, keepdim=True) - h * (gw * h).mean(1, keepdim=True)) * scale
    return gx, ((g * h).sum(0), g.sum(0))


def _activate(h: Tensor, activation: int) -> Tensor:
    return (F.silu, F.relu, F.gelu)[activation](h)


def _slope(h: Tensor, activation: int) -> Tensor:
    if activation == 1:
        return torch.where(h <= 0, 0.0, 1.0).to(h.dtype)
    if activation == 0:
        s = torch.sigmoid(h)
        return s * (1 + h * (1 - s))
    return torch.special.ndtr(h) + h * torch.exp(-h * h / 2) * 0.3989422804014327

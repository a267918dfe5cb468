"""Decoding a number token by token, without a cache: the definition of ``value_decode``. Every step runs the whole prefix again.

The weights are a flat list: E ``[V, d]``, the head's W ``[V, d]`` and b ``[V]``; of each layer qkv, attention_out, cross_value,
cross_out, linear1, linear2, norm1, norm3, and norm2 where norms come after (weight and bias of each); the projection of the
memory, if there is one; the last norm where norms come first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from . import rng

PAD, SOS, EOS, FIRST = 0, 1, 2, 3  # FIRST: the first value token
NONE, WINDOW, FULL = 0, 1, 2  # mixup


def layer_size(pre: bool) -> int:
    return 16 if pre else 18


def split_layers(
    memory: Tensor, weights: Sequence[Tensor], pre: bool
) -> tuple[list[tuple[Tensor, ...]], list[Tensor], tuple[Tensor, ...]]:  # fmt: skip
    """For kernels: each layer's weights without those of its attention to the memory, what that adds [B, d], the last norm's weights."""
    size = layer_size(pre)
    end = len(weights) - (len(weights) - 3) % size
    rest = weights[end:]
    m = F.linear(memory, rest[0], rest[1]) if len(rest) == 4 or (rest and not pre) else memory
    layers = [tuple(weights[i : i + size]) for i in range(3, end, size)]
    constants = [F.linear(F.linear(m, w[4], w[5]), w[6], w[7]) for w in layers]
    return [w[:4] + w[8:] for w in layers], constants, tuple(rest[-2:]) if pre else ()


def next_logits(x: Tensor, memory: Tensor, weights: Sequence[Tensor], heads: int, pre: bool, gelu: bool, eps: float) -> Tensor:
    """Inputs x [B, T, d], memory [B, M] -> logits after the last input, [B, V]."""
    B, T, d = x.shape
    size = layer_size(pre)
    count = (len(weights) - 3) // size
    rest = weights[3 + count * size :]
    m = F.linear(memory, rest[0], rest[1]) if len(rest) == 4 or (rest and not pre) else memory
    mask = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
    for i in range(count):
        w = weights[3 + i * size : 3 + (i + 1) * size]

        def norm(x: Tensor, at: int, w: Sequence[Tensor] = w) -> Tensor:
            return layer_norm(x, w[at], w[at + 1], eps)

        q, k, v = F.linear(norm(x, 12) if pre else x, w[0], w[1]).view(B, T, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * (d // heads) ** -0.5  # [B, heads, T, T]
        a = (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v).transpose(1, 2).reshape(B, T, d)
        x = x + F.linear(a, w[2], w[3])
        x = x if pre else norm(x, 12)
        x = x + F.linear(F.linear(m, w[4], w[5]), w[6], w[7])[:, None]
        x = x if pre else norm(x, 16)
        h = F.linear(norm(x, 14) if pre else x, w[8], w[9])
        x = x + F.linear(F.gelu(h) if gelu else F.relu(h), w[10], w[11])
        x = x if pre else norm(x, 14)
    x = x[:, -1]
    return F.linear(layer_norm(x, rest[-2], rest[-1], eps) if pre else x, weights[1], weights[2])


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """NaN where the variance overflows: torch gives NaN or 0, as its loops happen to be vectorised."""
    y = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    return torch.where((x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).isinf(), torch.nan, y)


def gumbel(u: Tensor) -> Tensor:
    """From uniforms in (0, 1]; 1, which stands for 1 - 2^-25, does not become infinite."""
    return -torch.log(torch.clamp(-torch.log(u), min=2**-25))


def value_decode(
    memory: Tensor, values: Tensor, weights: Sequence[Tensor], position: Tensor | None, capacity: Tensor | None,
    row_ids: Tensor | None, draw_ids: Tensor | None, heads: int, pre: bool, gelu: bool, eps: float, steps: int, window: int, mixup: int,
    windowed: bool, temperature: float, monotone: bool, cap: float, seed: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """memory [B, M], values [V] -> (value [B], tokens [B, steps], lengths [B]).

    A row ends at EOS, or where its logits or its noise hold a NaN (then its value is NaN); behind that its tokens are PAD. The window lies
    around the step's token. capacity: [B], or the number ``cap``.
    """
    B, E, V = memory.shape[0], weights[0], weights[0].shape[0]
    j = torch.arange(V, device=memory.device)
    limits = torch.full_like(memory[:, 0], cap) if capacity is None else capacity  # [B], the capacity, infinite for none
    constrained = monotone or capacity is not None or cap < torch.inf
    remaining = limits
    inputs = E[SOS].expand(B, 1, -1)  # [B, T, d]
    live = torch.ones(B, dtype=torch.bool, device=memory.device)
    total, read = torch.zeros_like(limits), torch.zeros_like(limits)  # of the tokens' values; of the windows
    tokens = torch.full((B, steps), PAD, device=memory.device)
    lengths = torch.zeros(B, dtype=torch.int64, device=memory.device)
    for i in range(steps):
        x = inputs if position is None else inputs + position[: i + 1]
        logits = next_logits(x, memory, weights, heads, pre, gelu, eps)  # [B, V]
        has_nan = logits.isnan().any(-1)
        if constrained:
            allowed = ((j >= FIRST) & (values <= remaining[:, None])) | (j == EOS)
            logits = logits.masked_fill(~allowed, -torch.inf)
        score = logits
        if temperature > 0:
            assert row_ids is not None
            score = logits / temperature + gumbel(rng.random_uniform(row_ids, draw_ids, 0, seed, i + 1, V).to(logits.dtype))
            has_nan = has_nan | score.isnan().any(-1)  # a draw out of range
        token = score.argmax(-1)  # [B], the first of equals
        near = (j - token[:, None]).abs() <= window // 2  # [B, V]
        if windowed:
            step = torch.where(near, logits.softmax(-1) * values, 0.0).sum(-1)
            read = torch.where(live, read + step, read)
        total = torch.where(live, total + values[token], total)
        total = torch.where(live & has_nan, torch.nan, total)
        read = torch.where(live & has_nan, torch.nan, read)
        remaining = torch.minimum(limits - total, values[token]) if monotone else limits - total
        tokens[:, i] = torch.where(live & ~has_nan, token, PAD)
        live = live & ~has_nan & (token != EOS)
        lengths += live
        if i + 1 == steps or (memory.device.type == "cpu" and not live.any()):
            break
        if mixup == NONE:
            following = E[token]
        else:
            if mixup == WINDOW:
                special = token[:, None] < FIRST
                near = torch.where(special, j == token[:, None], near & (j >= FIRST))
                logits = logits.masked_fill(~near, -torch.inf)
            following = logits.softmax(-1) @ E
        inputs = torch.cat((inputs, following[:, None]), 1)
    if constrained:
        total = torch.where(limits.isnan(), torch.nan, total)
        read = torch.minimum(read, limits)
    return read if windowed else total, tokens, lengths

"""Decoding numbers token by token on a GPU: a program owns BLOCK_B rows from SOS until all of them have ended.

Registers hold the rows' inputs of a step, ``[BLOCK_B, DP]``; the weights, 0.4 MB for two layers of d = 64, come from L2 at every step.
Keys, values and (where the softmax is needed) logits lie in a workspace of the call, ``B (2 L T DP + V)`` numbers, which only their
own program touches. Heads are padded to powers of two, side by side, so that a head is an axis: DP = HP HDP columns.

The decoder's sizes are compile-time constants: offsets and masks of weights then cost no registers. Matrix products are ``tf32x3``,
about as exact as fp32. fp64 and DP above 64 run the uncached reference. One program's keys, values and logits pass between its
threads through memory, so there is a barrier after each.

One H200, B = 65536, T = 12, d = 64: 161 Gflop, three times that in TF32, so 1.2 ms at 400 Tflop/s, and 20 GB of weights from L2 at 16
rows, 4 ms; predicted 8 ms. B = 1: 5 MB from L2 to one multiprocessor, predicted 0.1 ms. Not yet measured.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from ..reference import value_decode as reference
from ..reference.rng import largest_draw
from ._math import log1p
from .rng import uniform4

WINDOW = tl.constexpr(1)
FULL = tl.constexpr(2)
EOS = tl.constexpr(2)
FIRST = tl.constexpr(3)
WIDEST = 64  # DP


@triton.jit
def _linear(x, w, b, at, live, d: tl.constexpr):
    """x [BLOCK_B, DP], w [d, d] -> x w^T + b."""
    wt = tl.load(w + at[None, :] * d + at[:, None], mask=live[:, None] & live[None, :], other=0.0)  # [in, out]
    return tl.dot(x, wt, input_precision="tf32x3") + tl.load(b + at, mask=live, other=0.0)[None, :]


@triton.jit
def _norm(x, w, at, live, d: tl.constexpr, eps):
    """Weight, then bias, at w; columns that are not live are 0 and stay so."""
    c = tl.where(live[None, :], x - (tl.sum(x, 1) / d)[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(c * c, 1) / d + eps)
    return c * scale[:, None] * tl.load(w + at, mask=live, other=0.0)[None, :] + tl.load(w + d + at, mask=live, other=0.0)[None, :]


@triton.jit
def _attend(q, keys, vals, row, column, rm, i, steps, BLOCK_B: tl.constexpr, HP: tl.constexpr, HDP: tl.constexpr):
    """q [BLOCK_B, DP], scaled, over positions 0, ..., i of the rows' caches, by a running softmax."""
    DP: tl.constexpr = HP * HDP
    top = tl.full([BLOCK_B, HP], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_B, HP], tl.float32)
    out = tl.zeros([BLOCK_B, HP, HDP], tl.float32)
    for t in range(i + 1):
        at = (row * steps + t)[:, None] * DP + column[None, :]
        k = tl.load(keys + at, mask=rm[:, None], other=0.0)
        v = tl.load(vals + at, mask=rm[:, None], other=0.0)
        s = tl.sum(tl.reshape(q * k, [BLOCK_B, HP, HDP]), 2)
        now = tl.where(top > s, top, s)
        keep, e = tl.exp(top - now), tl.exp(s - now)
        total = total * keep + e
        out = out * keep[:, :, None] + e[:, :, None] * tl.reshape(v, [BLOCK_B, HP, HDP])
        top = now
    return tl.reshape(out / total[:, :, None], [BLOCK_B, DP])


@triton.jit(do_not_specialize=["seed", "largest"])
def decode_kernel(
    weights, embedding, head_w, head_b, last, position, values, constants, capacity, row_ids, draw_ids, keys, vals, work,
    value, tokens, lengths,
    B, L, steps, layer_size, half, eps, scale, inverse, cap, seed, largest,
    PRE: tl.constexpr, GELU: tl.constexpr, CONSTRAINED: tl.constexpr, MONOTONE: tl.constexpr, SAMPLE: tl.constexpr,
    WINDOWED: tl.constexpr, MIXUP: tl.constexpr, d: tl.constexpr, heads: tl.constexpr, V: tl.constexpr, units: tl.constexpr,
    BLOCK_B: tl.constexpr, HP: tl.constexpr, HDP: tl.constexpr, BLOCK_F: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """constants [B, L, d], keys, vals [B, L, steps, DP], work [B, V]; weights as `_flat` lays them out."""
    DP: tl.constexpr = HP * HDP
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    rm = b < B
    column = tl.arange(0, DP)
    cm = (column // HDP < heads) & (column % HDP < d // heads)
    at = column // HDP * (d // heads) + column % HDP  # the column's place in [d]
    jv, jf = tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_F)
    fed = tl.load(embedding + d + at, mask=cm, other=0.0)[None, :] + tl.zeros([BLOCK_B, DP], tl.float32)  # SOS
    room = tl.zeros([BLOCK_B], tl.float32) + cap
    if capacity is not None:
        room = tl.load(capacity + b, mask=rm, other=0.0)
    limit = room
    live = rm.to(tl.int32)
    total, read = tl.zeros([BLOCK_B], tl.float32), tl.zeros([BLOCK_B], tl.float32)
    length = tl.zeros([BLOCK_B], tl.int64)
    noise_row, draw = b, b * 0
    if SAMPLE:
        noise_row = tl.load(row_ids + b, mask=rm, other=0)
        if draw_ids is not None:
            draw = tl.load(draw_ids + b, mask=rm, other=0)
    i = 0
    while (i < steps) & (tl.max(live, 0) > 0):
        x = fed
        if position is not None:
            x += tl.load(position + i * d + at, mask=cm, other=0.0)[None, :]
        for layer in range(L):
            w = weights + tl.cast(layer, tl.int64) * layer_size
            row = b * L + layer
            n1 = w + 4 * d * d + 4 * d + 2 * units * d + units + d
            y = x
            if PRE:
                y = _norm(x, n1, at, cm, d, eps)
            bq = w + 3 * d * d
            here = (row * steps + i)[:, None] * DP + column[None, :]
            tl.store(keys + here, _linear(y, w + d * d, bq + d, at, cm, d), mask=rm[:, None])
            tl.store(vals + here, _linear(y, w + 2 * d * d, bq + 2 * d, at, cm, d), mask=rm[:, None])
            q = _linear(y, w, bq, at, cm, d) * scale
            tl.debug_barrier()
            y = _attend(q, keys, vals, row, column, rm, i, steps, BLOCK_B, HP, HDP)
            wo = bq + 3 * d
            x += _linear(y, wo, wo + d * d, at, cm, d)
            if not PRE:
                x = _norm(x, n1, at, cm, d, eps)
            x += tl.load(constants + row[:, None] * d + at[None, :], mask=rm[:, None] & cm[None, :], other=0.0)
            if PRE:
                y = _norm(x, n1 + 2 * d, at, cm, d, eps)
            else:
                x = _norm(x, n1 + 4 * d, at, cm, d, eps)
                y = x
            w1 = wo + d * d + d
            w2 = w1 + units * d + units
            x += tl.load(w2 + d * units + at, mask=cm, other=0.0)[None, :]
            for f in range(0, units, BLOCK_F):
                unit = f + jf
                fm = unit < units
                h = tl.load(w1 + unit[None, :] * d + at[:, None], mask=cm[:, None] & fm[None, :], other=0.0)  # [DP, BLOCK_F]
                h = tl.dot(y, h, input_precision="tf32x3") + tl.load(w1 + units * d + unit, mask=fm, other=0.0)[None, :]
                if GELU:  # noqa: SIM108
                    h = 0.5 * h * (1.0 + tl.erf(h * 0.7071067811865476))
                else:
                    h = tl.where(h < 0, 0.0, h)
                u = tl.load(w2 + at[None, :] * units + unit[:, None], mask=cm[None, :] & fm[:, None], other=0.0)  # [BLOCK_F, DP]
                x = tl.dot(h, u, x, input_precision="tf32x3")
            if not PRE:
                x = _norm(x, n1 + 2 * d, at, cm, d, eps)
        if PRE:
            x = _norm(x, last, at, cm, d, eps)

        # The token: the first of the largest scores, block by block.
        best = tl.full([BLOCK_B], float("-inf"), tl.float32)
        most = tl.full([BLOCK_B], float("-inf"), tl.float32)  # of the logits
        token = tl.zeros([BLOCK_B], tl.int64)
        bad = tl.zeros([BLOCK_B], tl.int32)
        for v in range(0, V, BLOCK_V):
            j = v + jv
            vm = j < V
            wt = tl.load(head_w + j[None, :] * d + at[:, None], mask=cm[:, None] & vm[None, :], other=0.0)  # [DP, BLOCK_V]
            logit = tl.dot(x, wt, input_precision="tf32x3") + tl.load(head_b + j, mask=vm, other=0.0)[None, :]
            bad = bad | tl.max(tl.where(vm[None, :] & (logit != logit), 1, 0), 1)
            allowed = vm[None, :] & (b >= 0)[:, None]
            if CONSTRAINED:
                g = tl.load(values + j, mask=vm, other=0.0)
                allowed = allowed & (((j >= FIRST)[None, :] & (g[None, :] <= limit[:, None])) | (j == EOS)[None, :])
            logit = tl.where(allowed, logit, float("-inf"))
            if WINDOWED or MIXUP > 0:
                tl.store(work + b[:, None] * V + j[None, :], logit, mask=rm[:, None] & vm[None, :])
            score = logit
            if SAMPLE:
                dead = (draw < 0) | (draw > largest)
                index = tl.where(dead, 0, draw)[:, None] * V + j[None, :]
                u0, u1, u2, u3 = uniform4(noise_row[:, None] + index * 0, i + 1, index // 4, seed)
                word = index % 4
                u = tl.where(word < 2, tl.where(word == 0, u0, u1), tl.where(word == 2, u2, u3))
                e = -log1p(u - 1.0)
                e = tl.where(e < 2.9802322387695312e-08, 2.9802322387695312e-08, e)  # 2^-25
                score = logit * inverse - log1p(e - 1.0)
                bad = bad | dead.to(tl.int32)
            top = tl.max(score, 1)
            first = v + tl.argmax(score, 1)
            token = tl.where(top > best, first.to(tl.int64), token)
            best = tl.where(top > best, top, best)
            highest = tl.max(logit, 1)
            most = tl.where(highest > most, highest, most)
        tl.debug_barrier()

        # What follows from it.
        goes = (live > 0) & (bad == 0)
        gain = tl.load(values + token)
        tl.store(tokens + b * steps + i, token, mask=rm & goes)
        if WINDOWED or MIXUP > 0:
            nearest = tl.zeros([BLOCK_B], tl.float32) + most
            if MIXUP == WINDOW:
                nearest = tl.full([BLOCK_B], float("-inf"), tl.float32)
                for v in range(0, V, BLOCK_V):
                    j = v + jv
                    logit = tl.load(work + b[:, None] * V + j[None, :], mask=rm[:, None] & (j < V)[None, :], other=float("-inf"))
                    inside = (tl.abs(j[None, :] - token[:, None]) <= half) & (j >= FIRST)[None, :]
                    highest = tl.max(tl.where(inside, logit, float("-inf")), 1)
                    nearest = tl.where(highest > nearest, highest, nearest)
            mix = tl.zeros([BLOCK_B, DP], tl.float32)
            everything = tl.zeros([BLOCK_B], tl.float32)
            share = tl.zeros([BLOCK_B], tl.float32)
            part = tl.zeros([BLOCK_B], tl.float32)
            for v in range(0, V, BLOCK_V):
                j = v + jv
                vm = j < V
                logit = tl.load(work + b[:, None] * V + j[None, :], mask=rm[:, None] & vm[None, :], other=float("-inf"))
                e = tl.where(vm[None, :], tl.exp(logit - most[:, None]), 0.0)
                near = tl.abs(j[None, :] - token[:, None]) <= half
                everything += tl.sum(e, 1)
                if WINDOWED:
                    part += tl.sum(tl.where(near, e * tl.load(values + j, mask=vm, other=0.0)[None, :], 0.0), 1)
                if MIXUP == WINDOW:
                    special = (token < FIRST)[:, None]
                    e = tl.where(vm[None, :] & near & (j >= FIRST)[None, :], tl.exp(logit - nearest[:, None]), 0.0)
                    e = tl.where(special, tl.where(j[None, :] == token[:, None], 1.0, 0.0), e)
                if MIXUP > 0:
                    share += tl.sum(e, 1)
                    rows = tl.load(embedding + j[:, None] * d + at[None, :], mask=vm[:, None] & cm[None, :], other=0.0)
                    mix = tl.dot(e, rows, mix, input_precision="tf32x3")
            read += tl.where(goes, part / everything, 0.0)
            if MIXUP > 0:
                fed = mix / share[:, None]
            tl.debug_barrier()
        if MIXUP == 0:
            fed = tl.load(embedding + token[:, None] * d + at[None, :], mask=cm[None, :], other=0.0)
        broken = (live > 0) & (bad > 0)
        total = tl.where(broken, float("nan"), tl.where(goes, total + gain, total))
        read = tl.where(broken, float("nan"), read)
        limit = room - total
        if MONOTONE:
            limit = tl.where(gain < limit, gain, limit)  # NaN stays
        live = tl.where(goes & (token != EOS), 1, 0)
        length += live.to(tl.int64)
        i += 1
    result = read if WINDOWED else total
    if CONSTRAINED:
        result = tl.where((room != room) | (room < result), room, result)
    tl.store(value + b, result, mask=rm)
    tl.store(lengths + b, length, mask=rm)


def reasons_against(memory: Tensor, values: Tensor, weights: Sequence[Tensor], *args: Any) -> list[str]:
    """Why this call cannot run here."""
    reasons = []
    if memory.dtype == torch.float64:
        reasons.append("float64 is not served by tensor cores: the reference takes it")
    heads, d = args[4], weights[0].shape[1]
    HP, HDP = _heads(d, heads)
    if HP * HDP > WIDEST:
        reasons.append(f"expected d_model up to {WIDEST} with heads and their width padded to powers of two, got {HP} x {HDP}")
    return reasons


def value_decode(
    memory: Tensor, values: Tensor, weights: Sequence[Tensor], position: Tensor | None, capacity: Tensor | None,
    row_ids: Tensor | None, draw_ids: Tensor | None, heads: int, pre: bool, gelu: bool, eps: float, steps: int, window: int, mixup: int,
    windowed: bool, temperature: float, monotone: bool, cap: float, seed: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    B, (V, d) = memory.shape[0], weights[0].shape
    value, lengths = memory.new_empty(B), memory.new_empty(B, dtype=torch.int64)
    tokens = memory.new_zeros((B, steps), dtype=torch.int64)
    if B == 0:
        return value, tokens, lengths
    size = reference.layer_size(pre)
    L = (len(weights) - 3) // size
    units = weights[3 + 8].shape[0]
    rest = weights[3 + L * size :]
    m = F.linear(memory, rest[0], rest[1]) if len(rest) == 4 or (rest and not pre) else memory
    parts, constants = [], []
    for i in range(L):
        w = weights[3 + i * size : 3 + (i + 1) * size]
        constants.append(F.linear(F.linear(m, w[4], w[5]), w[6], w[7]))
        parts += [t.reshape(-1) for t in (*w[:4], *w[8:])]
    flat, constant = torch.cat(parts), torch.stack(constants, 1)  # [B, L, d]
    last = torch.cat(tuple(rest[-2:])) if pre else None
    HP, HDP = _heads(d, heads)
    sample, soft = temperature > 0, windowed or mixup != reference.NONE
    keys = memory.new_empty((2, B, L, steps, HP * HDP))
    work = memory.new_empty((B, V)) if soft else None
    block_b, block_f, block_v, warps = _blocks(B, sample)
    with torch.cuda.device_of(memory):
        decode_kernel[(triton.cdiv(B, block_b),)](
            flat, weights[0].contiguous(), weights[1].contiguous(), weights[2].contiguous(), last, _dense(position), values.contiguous(),
            constant, _dense(capacity), _dense(row_ids), _dense(draw_ids), keys[0], keys[1], work, value, tokens, lengths,
            B, L, steps, flat.numel() // L, window // 2, eps, (d // heads) ** -0.5, 1 / temperature if sample else 1.0,
            cap, seed, largest_draw(V),
            pre, gelu, monotone or capacity is not None or cap < float("inf"), monotone, sample, windowed, mixup, d, heads, V, units,
            block_b, HP, HDP, block_f, block_v, num_warps=warps, num_stages=1,
        )  # fmt: skip
    return value, tokens, lengths


def _dense(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def _heads(d: int, heads: int) -> tuple[int, int]:
    """HP, HDP: powers of two, at least 16 columns in all."""
    HP, HDP = triton.next_power_of_2(heads), triton.next_power_of_2(d // heads)
    return max(HP, 16 // HDP), HDP


def _blocks(B: int, sample: bool) -> tuple[int, int, int, int]:
    """BLOCK_B, BLOCK_F, BLOCK_V, warps."""
    return 16, 32, 32, 8


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    f, ids = "*fp32", "*i64"
    floats = (
        "weights",
        "embedding",
        "head_w",
        "head_b",
        "last",
        "position",
        "values",
        "constants",
        "capacity",
        "keys",
        "vals",
        "work",
        "value",
    )
    tensors = dict.fromkeys(floats, f) | dict.fromkeys(("row_ids", "draw_ids", "tokens", "lengths"), ids)
    sizes = dict.fromkeys(("B", "L", "steps", "layer_size", "half"), "i32")
    numbers = dict.fromkeys(("eps", "scale", "inverse", "cap"), "fp32") | {"seed": "i64", "largest": "i64"}
    switches = (
        "PRE",
        "GELU",
        "CONSTRAINED",
        "MONOTONE",
        "SAMPLE",
        "WINDOWED",
        "MIXUP",
        "d",
        "heads",
        "V",
        "units",
        "BLOCK_B",
        "HP",
        "HDP",
        "BLOCK_F",
        "BLOCK_V",
    )
    fixed = dict.fromkeys(switches, "constexpr")
    plain, full = (False, False, False, 0), (True, False, True, 2)
    for pre, gelu, heads, (constrained, sample, windowed, mixup) in (
        (False, False, (4, 16), plain), (False, False, (4, 16), full), (True, True, (4, 16), (True, True, True, 1)),
        (False, False, (8, 8), (True, True, False, 0)), (True, True, (1, 16), plain),
    ):  # fmt: skip
        block_b, block_f, block_v, warps = _blocks(1024, sample)
        given = (
            pre,
            gelu,
            constrained,
            constrained,
            sample,
            windowed,
            mixup,
            heads[0] * heads[1],
            heads[0],
            64,
            256,
            block_b,
            *heads,
            block_f,
            block_v,
        )
        values: dict[str, Any] = dict(zip(switches, given, strict=True))
        here = {"last": pre, "position": pre, "capacity": constrained, "row_ids": sample, "draw_ids": sample, "work": windowed or mixup}
        values |= {name: None for name, there in here.items() if not there}
        yield decode_kernel, tensors | sizes | numbers | fixed, values, {"num_warps": warps, "num_stages": 1}

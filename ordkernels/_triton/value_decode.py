"""Decoding numbers token by token on a GPU: a program owns BLOCK_B rows from SOS until all of them have ended.

Registers hold the rows' inputs of a step, ``[BLOCK_B, DP]``; the weights, 0.4 MB for two layers of d = 64, come from L2 at every step.
Keys, values and (where the softmax is needed) logits lie in a workspace of the call, ``B (2 L T DP + V)`` numbers, private to their
program. Heads are padded to powers of two, side by side, so that a head is an axis: DP = HP HDP columns.

The decoder's sizes are compile-time constants: offsets and masks of weights then cost no registers. Matrix products are ``tf32x3``,
about as exact as fp32. fp64 and DP above 64 run in CUDA C++, or on the uncached reference. One program's keys, values and logits pass
between its threads through memory, so there is a barrier after each.

One H200, B = 65536, T = 12, d = 64: 161 Gflop, three times that in TF32, so 1.2 ms at 400 Tflop/s, and 20 GB of weights from L2 at 16
rows, 4 ms; predicted 8 ms. B = 1: 5 MB from L2 to one multiprocessor, predicted 0.1 ms. Not yet measured.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import value_decode as reference
from ..reference.rng import largest_draw
from ._decoder import decoder_layer, layer_norm
from ._decoder_tokens import EOS, choose_token, read_logits
from ._launch import launch
from ._sizes import cdiv, next_power_of_2

MAX_WIDTH = 64  # DP
BLOCK_B, BLOCK_F, BLOCK_V = 16, 32, 32  # with eight warps: more would spill


@triton.jit(do_not_specialize=["B", "L", "steps", "seed", "largest_draw"])
def decode_kernel(
    weights, embedding, head_w, head_b, last, position, values, constants, capacity, row_ids, draw_ids, keys, vals, logits,
    value, tokens, lengths,
    B, L, steps, layer_size, half, eps, scale, inverse_temperature, cap, seed, largest_draw,
    PRE: tl.constexpr, GELU: tl.constexpr, CONSTRAINED: tl.constexpr, MONOTONE: tl.constexpr, SAMPLE: tl.constexpr,
    WINDOWED: tl.constexpr, MIXUP: tl.constexpr, d: tl.constexpr, heads: tl.constexpr, V: tl.constexpr, units: tl.constexpr,
    BLOCK_B: tl.constexpr, HP: tl.constexpr, HDP: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """constants [B, L, d], keys, vals [B, L, steps, DP], logits [B, V]; weights: every layer's, flat, one after another."""
    DP: tl.constexpr = HP * HDP
    READ_LOGITS: tl.constexpr = WINDOWED or MIXUP > 0
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    row_mask = b < B
    column = tl.arange(0, DP)
    d_mask = (column // HDP < heads) & (column % HDP < d // heads)
    at = column // HDP * (d // heads) + column % HDP  # the column's place in [d]
    fed = tl.load(embedding + d + at, mask=d_mask, other=0.0)[None, :] + tl.zeros([BLOCK_B, DP], tl.float32)  # SOS
    row_cap = tl.zeros([BLOCK_B], tl.float32) + cap
    if capacity is not None:
        row_cap = tl.load(capacity + b, mask=row_mask, other=0.0)
    limit = row_cap
    active = row_mask.to(tl.int32)
    total, expected = tl.zeros([BLOCK_B], tl.float32), tl.zeros([BLOCK_B], tl.float32)
    length = tl.zeros([BLOCK_B], tl.int64)
    noise_row, draw = b, b * 0
    if SAMPLE:
        noise_row = tl.load(row_ids + b, mask=row_mask, other=0)
        if draw_ids is not None:
            draw = tl.load(draw_ids + b, mask=row_mask, other=0)
    i = 0
    while (i < steps) & (tl.max(active, 0) > 0):
        x = fed
        if position is not None:
            x += tl.load(position + i * d + at, mask=d_mask, other=0.0)[None, :]
        for layer in range(L):
            w = weights + tl.cast(layer, tl.int64) * layer_size
            x = decoder_layer(x, w, constants, keys, vals, b * L + layer, i, steps, scale, eps, at, column, row_mask, d_mask,
                PRE, GELU, d, units, BLOCK_B, HP, HDP, BLOCK_F)  # fmt: skip
        if PRE:
            x = layer_norm(x, last, at, d_mask, d, eps)
        token, max_logit, has_nan = choose_token(x, head_w, head_b, values, logits, limit, b, row_mask, at, d_mask,
            noise_row, draw, i + 1, inverse_temperature, seed, largest_draw,
            CONSTRAINED, SAMPLE, READ_LOGITS, d, V, BLOCK_B, BLOCK_V)  # fmt: skip
        tl.debug_barrier()
        accepted = (active > 0) & (has_nan == 0)
        gain = tl.load(values + token)
        tl.store(tokens + b * steps + i, token, mask=row_mask & accepted)
        if READ_LOGITS:
            fed, windowed = read_logits(logits, embedding, values, token, max_logit, half, b, row_mask, at, d_mask,
                WINDOWED, MIXUP, d, V, BLOCK_B, DP, BLOCK_V)  # fmt: skip
            expected += tl.where(accepted, windowed, 0.0)
            tl.debug_barrier()
        if MIXUP == 0:
            fed = tl.load(embedding + token[:, None] * d + at[None, :], mask=d_mask[None, :], other=0.0)
        failed = (active > 0) & (has_nan > 0)
        total = tl.where(failed, float("nan"), tl.where(accepted, total + gain, total))
        expected = tl.where(failed, float("nan"), expected)
        limit = row_cap - total
        if MONOTONE:
            limit = tl.where(gain < limit, gain, limit)  # NaN stays
        active = tl.where(accepted & (token != EOS), 1, 0)
        length += active.to(tl.int64)
        i += 1
    result = expected if WINDOWED else total
    if CONSTRAINED:
        result = tl.where((row_cap != row_cap) | (row_cap < result), row_cap, result)
    tl.store(value + b, result, mask=row_mask)
    tl.store(lengths + b, length, mask=row_mask)


def unavailable_reasons(memory: Tensor, values: Tensor, weights: Sequence[Tensor], *args: Any) -> list[str]:
    """Why the kernel cannot run this call; empty if it can."""
    reasons = []
    if memory.dtype == torch.float64:
        reasons.append("float64 is not served by tensor cores: CUDA C++ or the reference takes it")
    heads, d = args[4], weights[0].shape[1]
    HP, HDP = _heads(d, heads)
    if HP * HDP > MAX_WIDTH:
        reasons.append(f"expected d_model up to {MAX_WIDTH} with heads and their width padded to powers of two, got {HP} x {HDP}")
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
    flat, constants, last = _packed(memory, weights, pre)
    L = constants.shape[1]
    HP, HDP = _heads(d, heads)
    sample, read_logits = temperature > 0, windowed or mixup != reference.NONE
    keys = memory.new_empty(2, B, L, steps, HP * HDP)
    logits = memory.new_empty(B, V) if read_logits else None
    launch(
        decode_kernel, (cdiv(B, BLOCK_B),),
        flat, weights[0].contiguous(), weights[1].contiguous(), weights[2].contiguous(), last, _contiguous(position),
        values.contiguous(), constants, _contiguous(capacity), _contiguous(row_ids), _contiguous(draw_ids), keys[0], keys[1], logits,
        value, tokens, lengths,
        B, L, steps, flat.numel() // L, window // 2, eps, (d // heads) ** -0.5, 1 / temperature if sample else 1.0,
        cap, seed, largest_draw(V),
        pre, gelu, monotone or capacity is not None or cap < float("inf"), monotone, sample, windowed, mixup,
        d, heads, V, weights[3 + 8].shape[0], BLOCK_B, HP, HDP, BLOCK_F, BLOCK_V, num_warps=8, num_stages=1,
    )  # fmt: skip
    return value, tokens, lengths


def _packed(memory: Tensor, weights: Sequence[Tensor], pre: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """(the layers' weights, flat; what each layer's attention to the memory adds [B, L, d]; the last norm)."""
    layers, constants, last = reference.split_layers(memory, weights, pre)
    return torch.cat([t.reshape(-1) for w in layers for t in w]), torch.stack(constants, 1), torch.cat(last) if last else None


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def _heads(d: int, heads: int) -> tuple[int, int]:
    """HP, HDP: powers of two, at least 16 columns in all."""
    HP, HDP = next_power_of_2(heads), next_power_of_2(d // heads)
    return max(HP, 16 // HDP), HDP


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    floats = "weights embedding head_w head_b last position values constants capacity keys vals logits value"
    arguments = dict.fromkeys(floats.split(), "*fp32") | dict.fromkeys(("row_ids", "draw_ids", "tokens", "lengths"), "*i64")
    arguments |= dict.fromkeys(("B", "L", "steps", "layer_size", "half"), "i32")
    arguments |= dict.fromkeys(("eps", "scale", "inverse_temperature", "cap"), "fp32") | {"seed": "i64", "largest_draw": "i64"}
    plain, full = (False, False, False, 0), (True, False, True, 2)
    for pre, gelu, (heads, width), (constrained, sample, windowed, mixup) in (
        (False, False, (4, 16), plain), (False, False, (4, 16), full), (True, True, (4, 16), (True, True, True, 1)),
        (False, False, (8, 8), (True, True, False, 0)), (True, True, (1, 16), plain),
    ):  # fmt: skip
        values: dict[str, Any] = {"PRE": pre, "GELU": gelu, "CONSTRAINED": constrained, "MONOTONE": constrained, "SAMPLE": sample}
        values |= {"WINDOWED": windowed, "MIXUP": mixup, "d": heads * width, "heads": heads, "V": 64, "units": 256}
        values |= {"BLOCK_B": BLOCK_B, "HP": heads, "HDP": width, "BLOCK_F": BLOCK_F, "BLOCK_V": BLOCK_V}
        present = {
            "last": pre,
            "position": pre,
            "capacity": constrained,
            "row_ids": sample,
            "draw_ids": sample,
            "logits": windowed or mixup,
        }
        absent = {name: None for name, here in present.items() if not here}
        yield decode_kernel, arguments | dict.fromkeys(values, "constexpr"), values | absent, {"num_warps": 8, "num_stages": 1}

"""value_decode in CUDA C++: persistent blocks whose slots take one row after another."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..reference import value_decode as reference

MAX_SHARED = 160 << 10  # bytes: an A100 has 163 KB


def unavailable_reasons(
    memory: Tensor, values: Tensor, weights: Sequence[Tensor], position: Tensor | None, capacity: Tensor | None,
    row_ids: Tensor | None, draw_ids: Tensor | None, heads: int, pre: bool, gelu: bool, eps: float, steps: int, *_: object,
) -> list[str]:  # fmt: skip
    (V, d), units = weights[0].shape, weights[3 + 8].shape[0]
    n = _padded(d)
    row = 2 * _stride(n) + _stride(max(n + heads * steps, _padded(units), V)) + 3
    need = 16 * (row * memory.element_size() + 16) + 128
    if need <= MAX_SHARED:
        return []
    return [
        f"expected 16 rows of d_model {d}, {units} units, {V} tokens and {steps} steps to fit into {MAX_SHARED} bytes, they take {need}"
    ]


def value_decode(
    memory: Tensor, values: Tensor, weights: Sequence[Tensor], position: Tensor | None, capacity: Tensor | None,
    row_ids: Tensor | None, draw_ids: Tensor | None, heads: int, pre: bool, gelu: bool, eps: float, steps: int, window: int, mixup: int,
    windowed: bool, temperature: float, monotone: bool, cap: float, seed: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    d, units = weights[0].shape[1], _padded(weights[3 + 8].shape[0])
    embedding, head_w = (_pad(w, columns=_padded(d)) for w in weights[:2])
    layers, constants, last = _packed(memory, weights, pre, _padded(d), units)
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.ordkernels_cuda.value_decode(
        layers, embedding, head_w, weights[2], last, None if position is None else _pad(position, columns=_padded(d)), values, constants,
        capacity, row_ids, draw_ids, d, heads, units, pre, gelu, eps, steps, window, mixup, windowed, temperature, monotone, cap, seed,
    )  # fmt: skip
    return out


def _packed(memory: Tensor, weights: Sequence[Tensor], pre: bool, n: int, units: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """(the layers' weights, flat; what each layer's attention to the memory adds [B, L, n]; the last norm), padded by zeros."""
    d, flat = weights[0].shape[1], []
    layers, constants, last = reference.split_layers(memory, weights, pre)
    for w in layers:
        qkv = _pad(w[0].view(3, d, d), columns=n, rows=n), _pad(w[1].view(3, d), columns=n)
        out = _pad(w[2], columns=n, rows=n), _pad(w[3], columns=n)
        feed_forward = (
            _pad(w[4], columns=n, rows=units),
            _pad(w[5], columns=units),
            _pad(w[6], columns=units, rows=n),
            _pad(w[7], columns=n),
        )
        norms = (_pad(t, columns=n) for t in w[8:])
        flat += [t.reshape(-1) for t in (*qkv, *out, *feed_forward, *norms)]
    added = _pad(torch.stack(constants, 1), columns=n) if constants else memory.new_empty((memory.shape[0], 0, n))
    norm = torch.cat([_pad(t, columns=n) for t in last]) if last else None
    return torch.cat(flat) if flat else memory.new_empty(0), added, norm


def _padded(n: int) -> int:
    return -(-n // 16) * 16


def _stride(n: int) -> int:
    """Of rows in shared memory (csrc/cuda/kernels/decoder_layer.h)."""
    return (n + 15) // 32 * 32 + 16


def _pad(t: Tensor, columns: int = 0, rows: int = 0) -> Tensor:
    """Zeros up to so many columns and rows; 0: as many as there are."""
    right, below = max(0, columns - t.shape[-1]), max(0, rows - t.shape[-2]) if rows else 0
    return F.pad(t, (0, right, 0, below) if below else (0, right)) if right or below else t

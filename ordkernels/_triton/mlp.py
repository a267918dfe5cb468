"""Networks of one hidden layer on a GPU: matrix products by cuBLAS on a slab of rows, what lies between them by one kernel.

A slab's hidden units and their gradient take at most 16 MB each, so they mostly stay in L2, and no more of the hidden layer exists. The
kernel adds the rows of the tables by index, and applies the activation, the dropout and, backward, their derivatives, in place:
a forward pass is three launches where plain torch has seven. Gradients of weights are summed over slabs in order.

Bytes at R = 8192, H = 256: 17 MB forward, 34 MB backward, in L2. Not yet measured on a GPU.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference._common import compute_dtype, empty_unless
from ..reference._dropout import threshold_of
from ._launch import launch
from ._math import sigmoid
from ._philox import row_words
from ._sizes import cdiv

WORKSPACE = 16 << 20  # bytes
BLOCK_R = 32


@triton.jit(do_not_specialize=["seed", "first"])
def activation_kernel(
    z, dh, cond, time, cond_index, time_index, row_ids, scale, n, H, first, seed, threshold,
    COND: tl.constexpr, TIME: tl.constexpr, IDS: tl.constexpr, DROP: tl.constexpr, BACKWARD: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """z [G, n, H] + rows of the tables -> the hidden layer; dh: the gradient of that -> of z.

    COND, TIME: 0 no table, 1 one row for all, 2 row r, 3 rows by index.
    A program has 64 units of BLOCK_R rows, whose bits come from 8 blocks of Philox (reference/_dropout.py).
    """
    H = tl.cast(H, tl.int64)
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    tile, group = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    rm = r < n
    c = r * (COND > 1)
    if COND == 3:
        c = tl.load(cond_index + r, mask=rm, other=0)
    t = r * (TIME > 1)
    if TIME == 3:
        t = tl.load(time_index + r, mask=rm, other=0)
    if DROP:
        row = first + r
        if IDS:
            row = tl.load(row_ids + r, mask=rm, other=0)
        block = tile * 8 + tl.arange(0, 8)
        w0, w1, w2, w3 = row_words(row[:, None] + block[None, :] * 0, 0, block[None, :] + row[:, None] * 0, seed)
        even, odd = tl.interleave(w0, w2), tl.interleave(w1, w3)  # [BLOCK_R, 16]
    for v in tl.static_range(4):
        u = tile * 64 + v * 16 + tl.arange(0, 16)
        mask = rm[:, None] & (u < H)[None, :]
        at = (group * n + r)[:, None] * H + u[None, :]
        x = tl.load(z + at, mask=mask, other=0.0)  # [BLOCK_R, 16]
        if COND:
            x += tl.load(cond + c[:, None] * H + u[None, :], mask=mask, other=0.0)
        if TIME:
            x += tl.load(time + t[:, None] * H + u[None, :], mask=mask, other=0.0)
        s = sigmoid(x)
        h = x * s
        slope = s * (1.0 + x * (1.0 - s))
        if DROP:
            word = even if v < 2 else odd
            kept = ((word >> (16 * (v % 2))) & 0xFFFF).to(tl.int32) >= threshold
            factor = tl.where(kept, tl.load(scale), 0.0)
            h *= factor
            slope *= factor
        tl.store(z + at, h, mask=mask)
        if BACKWARD:
            tl.store(dh + at, slope * tl.load(dh + at, mask=mask, other=0.0), mask=mask)


class _Call:
    """A call's tensors in the compute type, with G networks in front: one where there is no G."""

    def __init__(self, args: tuple[Any, ...], dropout: float) -> None:
        x, w_in, b_in, cond, time, w_out, b_out, cond_index, time_index, seed, row_ids = args
        dtype, self.grouped = compute_dtype(x), w_in.dim() == 3
        lead = 1 if self.grouped else 0
        self.x, self.w_in, self.w_out = (t.to(dtype) if self.grouped else t.to(dtype).unsqueeze(lead) for t in (x, w_in, w_out))
        if not self.grouped:
            self.x = x.to(dtype)[:, None]  # [R, G or 1, D]
        self.G, self.H = self.w_in.shape[:2]
        self.b_in, self.b_out = (None if b is None else b.to(dtype).view(self.G, 1, -1) for b in (b_in, b_out))
        self.tables = [None if t is None else t.to(dtype).contiguous() for t in (cond, time)]
        self.indices, self.row_ids = [None if t is None else t.contiguous() for t in (cond_index, time_index)], row_ids
        self.threshold = threshold_of(dropout) if seed is not None else 0
        self.seed = int(seed) if self.threshold else 0  # of a tensor on the CPU: nothing waits for the device
        self.scale = self.x.new_full((), 65536 / (65536 - self.threshold))

    def slabs(self) -> list[slice]:
        n = max(BLOCK_R, WORKSPACE // (self.G * self.H * self.x.element_size()))
        return [slice(i, i + n) for i in range(0, len(self.x), n)]

    def inputs(self, s: slice) -> Tensor:
        return self.x[s].expand(-1, self.G, -1).transpose(0, 1)  # [G, n, D]

    def hidden(self, s: slice, dh: Tensor | None = None) -> Tensor:
        """[G, n, H]; dh, the gradient of it, becomes that of the layer before its activation."""
        z = _product(self.inputs(s), self.w_in.transpose(1, 2), self.b_in)
        n, tables = z.shape[1], []
        for table, index in zip(self.tables, self.indices, strict=True):
            kind = 0 if table is None else 3 if index is not None else 1 if len(table) == 1 else 2
            tables.append((table[s] if kind == 2 and table is not None else table, None if index is None else index[s], kind))
        (cond, cond_index, has_cond), (time, time_index, has_time) = tables
        ids = None if self.row_ids is None else self.row_ids[s].contiguous()
        launch(
            activation_kernel, (cdiv(n, BLOCK_R), cdiv(self.H, 64), self.G),
            z, dh, cond, time, cond_index, time_index, ids, self.scale, n, self.H, s.start, self.seed, self.threshold,
            has_cond, has_time, ids is not None, self.threshold > 0, dh is not None, BLOCK_R, num_warps=4,
        )  # fmt: skip
        return z


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return torch.bmm(a, b) if bias is None else torch.baddbmm(bias, a, b)


def mlp(
    x: Tensor, w_in: Tensor, b_in: Tensor | None, cond: Tensor | None, time: Tensor | None, w_out: Tensor, b_out: Tensor | None,
    cond_index: Tensor | None, time_index: Tensor | None, seed: Tensor | None, row_ids: Tensor | None, dropout: float,
) -> Tensor:  # fmt: skip
    call = _Call((x, w_in, b_in, cond, time, w_out, b_out, cond_index, time_index, seed, row_ids), dropout)
    y = x.new_empty(len(x), call.G, w_out.shape[-2])
    for s in call.slabs():
        y[s] = _product(call.hidden(s), call.w_out.transpose(1, 2), call.b_out).transpose(0, 1)
    return y if call.grouped else y[:, 0]


def mlp_backward(
    x: Tensor, w_in: Tensor, b_in: Tensor | None, cond: Tensor | None, time: Tensor | None, w_out: Tensor, b_out: Tensor | None,
    cond_index: Tensor | None, time_index: Tensor | None, seed: Tensor | None, row_ids: Tensor | None, g: Tensor,
    dropout: float, grad_mask: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    inputs = (x, w_in, b_in, cond, time, w_out, b_out)
    call = _Call((*inputs, cond_index, time_index, seed, row_ids), dropout)
    g = g.to(call.x.dtype) if call.grouped else g.to(call.x.dtype)[:, None]  # [R, G, O]
    dx, dw_in, dw_out = (torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (call.x, call.w_in, call.w_out))
    db_in, db_out = call.x.new_zeros(call.G, call.H), g.sum(0)
    tables = [None if t is None else torch.zeros_like(t) for t in call.tables]
    for s in call.slabs():
        gs = g[s].transpose(0, 1)  # [G, n, O]
        dz = torch.bmm(gs, call.w_out)
        h = call.hidden(s, dz)
        dw_out += torch.bmm(gs.transpose(1, 2), h)
        dw_in += torch.bmm(dz.transpose(1, 2), call.inputs(s))
        db_in += dz.sum(1)
        dxs = torch.bmm(dz, call.w_in).transpose(0, 1)  # [n, G, D]
        dx[s] = dxs if dx.shape[1] == call.G else dxs.sum(1, keepdim=True)
        for table, index in zip(tables, call.indices, strict=True):
            if table is not None:
                _add_rows(table, None if index is None else index[s], dz[0], s)
    found = [dx, dw_in, db_in, *tables, dw_out, db_out]
    if not call.grouped:
        found = [dx[:, 0], dw_in[0], db_in[0], *tables, dw_out[0], db_out[0]]
    asked = [t is not None and grad_mask >> i & 1 for i, t in enumerate(inputs)]
    return tuple(empty_unless(a, x if t is None else t.to(x.dtype)) for a, t in zip(asked, found, strict=True))


def _add_rows(table: Tensor, index: Tensor | None, dz: Tensor, s: slice) -> None:
    if index is not None:
        table.index_add_(0, index, dz)
    elif len(table) == 1:
        table += dz.sum(0)
    else:
        table[s] += dz


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    ids = dict.fromkeys(("cond_index", "time_index", "row_ids"), "*i64")
    sizes = dict.fromkeys(("n", "H", "threshold"), "i32") | dict.fromkeys(("first", "seed"), "i64")
    for t in ("*fp32", "*fp64"):
        tensors = dict.fromkeys(("z", "dh", "cond", "time", "scale"), t)
        for drop, backward in ((False, False), (True, True)):
            values = {"COND": 3, "TIME": 3, "IDS": True, "DROP": drop, "BACKWARD": backward, "BLOCK_R": BLOCK_R}
            absent: dict[str, Any] = {} if backward else {"dh": None}
            yield activation_kernel, tensors | ids | sizes | dict.fromkeys(values, "constexpr"), values | absent, {"num_warps": 4}

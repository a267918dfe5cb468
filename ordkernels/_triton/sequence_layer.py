"""A Transformer layer on packed sequences on a GPU: matrix products by cuBLAS, attention and what lies between by fused kernels.

Nothing is padded, and nothing waits for the device: where a token's sequence lies is found there. No kernel has atomics.

Launches in fp32: 10 forward (9 in post-norm), 4 of them products; 20 backward for all gradients, 8 of them products and 6 sums over rows,
and one more each for pre-norm's dropout and for a memory. Parameters and inputs of 16 bits are converted first.

Bytes a token, W = 64, F = 128, pre-norm: 7 KB forward, 16 KB backward, from one launch to the next and so mostly in L2 up to some thousand
tokens. Not yet measured on a GPU.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..reference._common import compute_dtype, empty_unless
from ..reference._dropout import threshold_of
from ..reference.sequence_layer import WEIGHTS
from . import _sequence_rows as kernels
from ._launch import launch
from ._math import number_bits
from ._sequence_attention import attention, attention_backward, attention_signatures
from ._sizes import cdiv, next_power_of_2

BLOCK = 1024  # elements of a program


def row_tile(W: int) -> tuple[dict[str, int], dict[str, int]]:
    """Constants and options of kernels on whole rows."""
    block_w = max(next_power_of_2(W), 16)
    return {"BLOCK_R": max(BLOCK // block_w, 1), "BLOCK_W": block_w}, {"num_warps": min(max(block_w // 256, 4), 32)}


class _Call:
    """A call's tensors in the compute type, and what its kernels have in common."""

    def __init__(self, x: Tensor, memory: Tensor | None, arguments: tuple[Any, ...]) -> None:
        weights, (offsets, seed, ids, heads, activation, pre, causal, eps, dropout, step) = arguments[:WEIGHTS], arguments[WEIGHTS:]
        self.storage, dtype = x.dtype, compute_dtype(x)
        self.tensors: list[Any] = [None if t is None else t.to(dtype).contiguous() for t in (x, memory, *weights)]
        self.x, self.memory = self.tensors[:2]
        pairs = zip(self.tensors[2::2], self.tensors[3::2], strict=True)  # weight and bias
        self.norm1, self.qkv, self.out, self.norm2, self.linear1, self.linear2, norm3 = pairs
        self.heads, self.activation, self.pre, self.causal = heads, activation, pre, causal
        self.after_memory = self.norm2 if pre else norm3
        self.S, (self.N, self.W) = len(offsets) - 1, x.shape
        if self.N and not self.S:
            raise ValueError(f"offsets: expected to rise from 0 to {self.N}, got one number")
        self.offsets, self.ids = offsets.contiguous(), None if ids is None else ids.contiguous()
        threshold = threshold_of(dropout) if seed is not None else 0
        # The seed is a tensor on the CPU: nothing waits for the device.
        self.dropout = int(seed) if threshold else 0, step, threshold
        self.drops, self.scale = threshold > 0, number_bits(65536 / (65536 - threshold))
        self.flags = {"PRE": pre, "IDS": ids is not None, "DROP": self.drops}
        self.tile, self.options = row_tile(self.W)
        self.programs = cdiv(self.N, self.tile["BLOCK_R"])
        self.sequence, self.start, self.end = self._tokens()
        self.keys = self.sequence, self.start, self.ids
        self.sizes = number_bits(eps), self.scale, self.N, self.W

    def _tokens(self) -> tuple[Tensor, ...]:
        """Of each token: its sequence, and where that starts and ends."""
        found = tuple(self.offsets.new_empty(self.N) for _ in range(3))  # each aligned
        if self.N:
            steps = (self.S - 1).bit_length()
            launch(kernels.tokens_kernel, (cdiv(self.N, 256),), self.offsets, *found, self.N, self.S, steps, BLOCK=256, num_warps=4)
        return found

    def rows(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        """Launch a kernel on all rows."""
        launch(kernel, (self.programs,), *arguments, **constants, **self.tile, **self.options)

    def activate(self, h: Tensor, y: Tensor, gy: Tensor | None = None) -> Tensor:
        launch(
            kernels.activation_kernel, (cdiv(h.numel(), BLOCK),),
            h, y, gy, h.numel(), KIND=self.activation, BACKWARD=gy is not None, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
        return y

    def forward(self, save: bool) -> tuple[Tensor, ...]:
        """(y, qkv, z1, h, z3), of which h is spoilt unless it is to be saved."""
        inputs = torch.empty_like(self.x) if self.pre else self.x
        if self.pre:
            self.rows(kernels.norm_kernel, self.x, *self.norm1, inputs, self.sizes[0], self.N, self.W)
        qkv = _linear(inputs, self.qkv)
        z1 = _linear(attention(qkv, self.start, self.end, self.heads, self.causal), self.out)
        has_memory = self.memory is not None
        x2 = torch.empty_like(z1) if has_memory or not self.pre else z1
        inputs = torch.empty_like(z1) if self.pre else x2
        self.rows(
            kernels.middle_kernel, self.x, z1, self.memory, *self.norm1, *self.after_memory, *self.keys, x2, inputs, *self.sizes,
            *self.dropout, MEMORY=has_memory, **self.flags,
        )  # fmt: skip
        h = _linear(inputs, self.linear1)
        z3 = _linear(self.activate(h, torch.empty_like(h) if save else h), self.linear2)
        y = z3.new_empty(z3.shape, dtype=self.storage)
        self.rows(kernels.last_kernel, x2, z3, *self.norm2, *self.keys, y, *self.sizes, *self.dropout, **self.flags)
        return y, qkv, z1, h, z3

    def backward(self, qkv: Tensor, z1: Tensor, h: Tensor, z3: Tensor, g: Tensor, mask: int) -> list[Tensor | None]:
        """Gradients of x, the memory and the weights, in order; None for those that there are none of or that are not asked for."""
        asked = [bool(mask >> i & 1) for i in range(2 + WEIGHTS)]
        _, asks_qkv, asks_out, _, asks_linear1, asks_linear2, _ = zip(asked[2::2], asked[3::2], strict=True)
        gz, added, norm2 = self._last_backward(z3, g.to(self.x.dtype).contiguous())
        gh, activated = added @ self.linear2[0], torch.empty_like(h)
        self.activate(h, activated, gh)
        linear2 = _linear_gradients(added, activated, asks_linear2)
        inputs, gz, added, gm, norms = self._middle_backward(z1, gz, gh @ self.linear1[0])
        linear1 = _linear_gradients(gh, inputs, asks_linear1)
        norm1, norm2, norm3 = ((None, None), norms[0], (None, None)) if self.pre else (norms[0], norm2, norms[-1])
        attended, gqkv = attention_backward(qkv, added @ self.out[0], self.start, self.end, self.heads, self.causal)
        out = _linear_gradients(added, attended, asks_out)
        if self.pre:
            gx, inputs, norm1 = self._first_backward(gz, gqkv @ self.qkv[0])
        else:
            gx, inputs = torch.addmm(gz, gqkv, self.qkv[0]) if asked[0] else None, self.x
        qkv_gradients = _linear_gradients(gqkv, inputs, asks_qkv)
        memory = self._memory_backward(gm) if asked[1] else None
        return [gx, memory, *norm1, *qkv_gradients, *out, *norm2, *linear1, *linear2, *norm3]

    def _last_backward(self, z3: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Any]:
        """The gradient of y -> those of z3 and of what the feed-forward part adds to it, and of post-norm's last norm."""
        gz, partial = (g, None) if self.pre else (torch.empty_like(g), self.x.new_empty(self.programs, 1, 2, self.W))
        added = torch.empty_like(g) if self.drops else gz
        if self.drops or not self.pre:
            self.rows(
                kernels.last_backward_kernel, z3, g, self.norm2[0], *self.keys, gz, added, partial, *self.sizes, *self.dropout,
                **self.flags,
            )  # fmt: skip
        return gz, added, _norm_gradients(partial)[0]

    def _middle_backward(self, z1: Tensor, g: Tensor, gi: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Any]:
        """g, gi: the gradients of x2 and of the feed-forward part's inputs -> (these inputs, the gradients of z1, of what the attention
        adds to it, of what the memory is added to, and of the norms)."""
        post_memory = self.memory is not None and not self.pre
        inputs, gz, partial = torch.empty_like(g), torch.empty_like(g), self.x.new_empty(self.programs, 1 + post_memory, 2, self.W)
        added, gm = torch.empty_like(g) if self.drops else gz, torch.empty_like(g) if post_memory else gz
        self.rows(
            kernels.middle_backward_kernel, z1, self.memory, g, gi, *self.norm1, *self.after_memory, *self.keys, inputs, gz, added, gm,
            partial, *self.sizes, *self.dropout, MEMORY=self.memory is not None, **self.flags,
        )  # fmt: skip
        return inputs, gz, added, gm, _norm_gradients(partial)

    def _first_backward(self, gz: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Of pre-norm's first norm: (the gradient of x, the norm once more, the gradients of weight and bias)."""
        gx, inputs, partial = torch.empty_like(gz), torch.empty_like(gz), self.x.new_empty(self.programs, 1, 2, self.W)
        self.rows(kernels.norm_backward_kernel, self.x, g, gz, *self.norm1, inputs, gx, partial, self.sizes[0], self.N, self.W)
        return gx, inputs, _norm_gradients(partial)[0]

    def _memory_backward(self, g: Tensor) -> Tensor:
        gm = self.x.new_empty(self.S, self.W)
        keys = {"IDS": self.flags["IDS"], "DROP": self.drops}
        launch(
            kernels.memory_backward_kernel, (self.S, cdiv(self.W, 64)),
            g, self.offsets, self.ids, gm, *self.sizes[1:], *self.dropout, **keys, BLOCK_N=16, num_warps=4,
        )  # fmt: skip
        return gm


def _linear(x: Tensor, layer: tuple[Tensor, Tensor]) -> Tensor:
    weight, bias = layer
    return torch.addmm(bias, x, weight.T)


def _linear_gradients(g: Tensor, x: Tensor, asked: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
    """Of weight and bias."""
    return g.T @ x if asked[0] else None, g.sum(0) if asked[1] else None


def _norm_gradients(partial: Tensor | None) -> Any:
    """[programs, norms, 2, W] -> [norms, 2, W]; None for no norm."""
    return [(None, None)] if partial is None else partial.sum(0)


def sequence_layer(x: Tensor, memory: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    """The arguments of ``reference.sequence_layer``."""
    *others, grad_mask = arguments
    call = _Call(x, memory, tuple(others))
    columns = call.W, 3 * call.W, call.W, len(call.linear1[0]), call.W
    empty = [call.x.new_empty(0, n) for n in columns]
    y, *saved = call.forward(grad_mask != 0) if call.N else empty
    qkv, z1, h, z3 = saved if grad_mask else empty[1:]
    return y.to(x.dtype), qkv, z1, h, empty[4] if call.pre else z3


def sequence_layer_backward(x: Tensor, memory: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    """The arguments of ``reference.sequence_layer_backward``."""
    inputs, saved, (*constants, mask) = arguments[: WEIGHTS + 3], arguments[WEIGHTS + 3 : WEIGHTS + 8], arguments[WEIGHTS + 8 :]
    call = _Call(x, memory, (*inputs, *constants))
    found = call.backward(*saved, mask) if call.N else [None if t is None else torch.zeros_like(t) for t in call.tensors]
    asked = [t is not None and mask >> i & 1 for i, t in enumerate(found)]
    return tuple(empty_unless(a, x if t is None else t.to(x.dtype)) for a, t in zip(asked, found, strict=True))


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    numbers = dict.fromkeys(("N", "S", "W", "steps", "step", "threshold", "n", "head"), "i32")
    numbers |= dict.fromkeys(("eps", "scale", "seed"), "i64")
    places = dict.fromkeys(("offsets", "sequence", "start", "end", "ids"), "*i64")

    def case(kernel: Any, t: str, constants: dict[str, Any], options: dict[str, int]) -> tuple[Any, ...]:
        values = {name: value for name, value in constants.items() if name in kernel.arg_names}
        types = {name: "constexpr" if name in values else (numbers | places).get(name, t) for name in kernel.arg_names}
        return kernel, types, values, options

    yield case(kernels.tokens_kernel, "*i64", {"BLOCK": 256}, {"num_warps": 4})
    for t in ("*fp32", "*fp64"):
        yield from (case(*each) for each in attention_signatures(t))
        for kind in range(3) if t == "*fp32" else (2,):
            yield case(kernels.activation_kernel, t, {"KIND": kind, "BACKWARD": True, "BLOCK": BLOCK}, {"num_warps": 4})
    yield case(kernels.memory_backward_kernel, "*fp32", {"IDS": True, "DROP": True, "BLOCK_N": 16}, {"num_warps": 4})
    every, largest = ("norm", "norm_backward", "middle", "middle_backward", "last", "last_backward"), ("norm_backward", "middle_backward")
    for t, W, pre, names in (("*fp32", 64, False, every), ("*fp32", 1024, True, largest), ("*fp64", 64, False, largest)):
        tile, options = row_tile(W)
        for name in names:
            constants = {"PRE": pre, "MEMORY": True, "IDS": True, "DROP": True, **tile}
            yield case(getattr(kernels, f"{name}_kernel"), t, constants, options)

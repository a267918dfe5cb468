"""A Transformer layer, forward and backward, against torch's own operations on padded sequences, eager and compiled. No dropout."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import ordkernels
from ordkernels import ops
from ordkernels.nn.transformer import TransformerLayer

from . import OURS, Case, Run, Scaling, Size, Target, compiled, randn, with_backward, without_grad

SHAPES: dict[Size, tuple[tuple[int, int, int, int, float], ...]] = {
    "tiny": ((3, 4, 8, 2, 0.5),),
    "quick": ((1024, 20, 16, 1, 1.0), (256, 20, 64, 4, 0.5)),
    "full": ((1024, 20, 16, 1, 1.0), (256, 20, 64, 4, 1.0), (256, 20, 64, 4, 0.5), (1024, 20, 64, 4, 0.2)),
}  # sequences, longest, W, heads, the share of it that a sequence has on average
TARGETS = [Target("as fast as the best baseline", "best baseline", 1.0)]


def cases(device: str, size: Size) -> Iterator[Case]:
    for shape in SHAPES[size]:
        yield _case(*shape, device=device)


def _case(S: int, L: int, W: int, heads: int, full: float, device: str) -> Case:
    torch.manual_seed(0)
    layer = TransformerLayer(W, heads, 0.0).to(device)
    lengths = torch.full((S,), L) if full == 1 else torch.randint(1, round(2 * full * L) + 1, (S,)).clamp(max=L)
    there = (torch.arange(L) < lengths[:, None]).to(device)
    offsets = torch.cat((lengths.new_zeros(1), lengths.cumsum(0))).to(device)
    weights = [t.detach() for t in layer.weights() if t is not None]
    names = [name for name, _ in layer.named_parameters()]
    order = ["norm1", "qkv", "out", "norm2", "ffn.0", "ffn.2"]
    places = [names.index(f"{part}.{end}") for part in order for end in ("weight", "bias")]
    N = int(offsets[-1])

    def padded(x: Tensor, *ws: Tensor) -> Tensor:
        named = {names[place]: w for place, w in zip(places, ws, strict=True)}
        full_x = x.new_zeros(S, L, W).index_put((there,), x)
        out: Tensor = torch.func.functional_call(layer, named, (full_x, there[:, None, None]))
        return out[there]

    def ours(x: Tensor, *ws: Tensor) -> Tensor:
        return ops.sequence_layer(x, offsets, ops.SequenceWeights(*ws), heads=heads)

    args, g = [randn(N, W, device=device, seed=1), *weights], randn(N, W, device=device, seed=2)
    runs: dict[str, Run] = {
        OURS: with_backward(ours, args, [g]),
        "padded": with_backward(padded, args, [g]),
        "compile": with_backward(compiled(padded), args, [g]),
    }

    def expected() -> tuple[Any, ...]:
        with ordkernels.use_backend("reference"):
            return with_backward(ours, [t.double() for t in args], [g.double()])()

    flops = 3.0 * (2 * N * 8 * W * W + 4 * W * int((lengths * lengths).sum()))
    name = f"forward + backward S={S} L={L} W={W} heads={heads}, {round(100 * N / (S * L))} % full"
    needed = 4 * (4 * N * W + 3 * sum(w.numel() for w in weights))
    return Case("sequence_layer", name, runs, expected, 1e-3, bytes=needed, flops=flops, device=device, targets=TARGETS)


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    rows = tuple(10**e for e in range(1, {"tiny": 2, "quick": 4, "full": 5}[size] + 1))

    def run(S: int) -> Run:
        layer = TransformerLayer(64, 4, 0.0).to(device).requires_grad_(False)
        offsets = torch.arange(S + 1, device=device) * 20
        return without_grad(lambda x: ops.sequence_layer(x, offsets, layer.weights(), heads=4), [randn(20 * S, 64, device=device, seed=1)])

    yield Scaling("sequence_layer", "forward, L=20 W=64", "sequences", rows, run, float)

"""A small call of every torch op: what tests of compilers, exporters and modes are repeated over."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ordkernels import nn, ops, rng
from ordkernels.schedules import NoiseSchedule

SCHEDULE = NoiseSchedule.cosine(20)
VALUES = torch.cat((torch.zeros(3), torch.arange(12.0, 0, -1)))


@dataclass(frozen=True)
class Call:
    """``run(*rows, *shared)``; rows are tensors [B, ...], shared ones have no rows."""

    run: Callable[..., Any]
    rows: Callable[[int], list[Tensor]]
    shared: tuple[Tensor, ...] = ()
    differentiable: bool = True

    def arguments(self, B: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        torch.manual_seed(B)
        rows = [t.to(dtype) if t.is_floating_point() else t for t in self.rows(B)]
        return [*rows, *(t.to(dtype) if t.is_floating_point() else t for t in self.shared)]

    def outputs(self, *arguments: Tensor) -> list[Tensor]:
        out = self.run(*arguments)
        return [out] if isinstance(out, Tensor) else list(out)


def normals(*shapes: tuple[int, ...]) -> Callable[[int], list[Tensor]]:
    return lambda B: [torch.randn(B, *shape) for shape in shapes]


def layer_of_sequences(x: Tensor, weights: Tensor) -> Any:
    """ops.sequence_layer on x [B, 3, 4], its weights in one row."""
    offsets = (torch.ones_like(x[:, 0, 0], dtype=torch.int64) * 3).cumsum(0)
    layer = ops.SequenceWeights(*(weights[end - math.prod(s) : end].view(s) for s, end in _LAYER_PLACES))
    return ops.sequence_layer(x.flatten(0, 1), F.pad(offsets, (1, 0)), layer, heads=2, dropout=0.3, seed=4).view(x.shape)


def levels(B: int) -> Tensor:
    return torch.tensor([0.25, 0.5]).repeat(B)[:B]  # bf16 numbers, so is what is added to them


torch.manual_seed(0)
_MLP = nn.MLPDenoiser(4, 3, 8).eval()
_SESSIONS = nn.SessionDenoiser(4).eval()
_DECODER = nn.ValueDecoder(len(VALUES), 8, 2, 16, 1).eval()
_LAYER_SHAPES = ((4,), (4,), (12, 4), (12,), (4, 4), (4,), (4,), (4,), (5, 4), (5,), (4, 5), (4,))
_LAYER_PLACES = list(zip(_LAYER_SHAPES, itertools.accumulate(map(math.prod, _LAYER_SHAPES)), strict=True))
_STEP: dict[str, Any] = {"eta": 1.0, "seed": 3, "row_ids": None, "step": 2}

CALLS = {
    "planar_flow": Call(lambda z, u, w, b: ops.planar_flow(z, u, w, b), normals((4,), (2, 4), (2, 4), (2,))),
    "planar_flow_inverse": Call(lambda z, u, w, b: ops.planar_flow_inverse(z, u, w, b), normals((4,), (2, 4), (2, 4), (2,))),
    "conditional_planar_flow": Call(
        lambda z, h, weight, bias: ops.conditional_planar_flow(z, h, weight, bias), normals((3, 4), (5,)),
        (torch.randn(18, 5) / 3, torch.randn(18)),
    ),
    "wasserstein_quantile_loss": Call(
        lambda s, p, q: ops.wasserstein_quantile_loss(s, p.sort(1).values, q.sort(1).values, lam=0.3), normals((6,), (6,), (6,))
    ),
    "crps": Call(lambda s, y: ops.crps(s, y), normals((6,), ())),
    "pinball": Call(lambda q, y, levels: ops.pinball(q, y, levels), normals((3,), ()), (torch.tensor([0.1, 0.5, 0.9]),)),
    "interval_score": Call(lambda a, b, y: ops.interval_score(a, b, y, 0.8), normals((), (), ())),
    "encode_increments": Call(lambda y, w: ops.encode_increments(y, w), lambda B: [3 * torch.rand(B)], (torch.tensor([1.0, 0.5, 2.0]),)),
    "nested_min": Call(lambda v, c, w: ops.nested_min(v, w, c), lambda B: [torch.rand(B, 3), torch.rand(B)], (torch.ones(3),)),
    "q_sample": Call(lambda x, noise, a: ops.q_sample(x, noise, a), lambda B: [*normals((4,), (4,))(B), levels(B)]),
    "flow_sample": Call(lambda x, noise, t: ops.flow_sample(x, noise, t), lambda B: [*normals((4,), (4,))(B), levels(B)]),
    "predict_x0": Call(lambda x, out, a: ops.predict_x0(x, out, a), lambda B: [*normals((4,), (4,))(B), levels(B)]),
    "reverse_step": Call(
        lambda x, out, a: ops.reverse_step(x, out, a, a + 0.25, **_STEP), lambda B: [*normals((4,), (4,))(B), levels(B)]
    ),
    "flow_step": Call(lambda x, v, t: ops.flow_step(x, v, t, t / 2), lambda B: [*normals((4,), (4,))(B), levels(B)]),
    "guided_posterior_step": Call(
        lambda x, f, g, h: ops.guided_posterior_step(x, f, g, h, 0.3, 0.7, gamma_cp=2.0, gamma_tf=1.0, seed=1, step=2),
        normals((4,), (4,), (4,), (4,)),
    ),
    "embedding_mixup": Call(lambda x, e: ops.embedding_mixup(x, e, window=4), normals((9,)), (torch.randn(9, 5),)),
    "windowed_value": Call(lambda x, v: ops.windowed_value(x, v, window=4), normals((9,)), (torch.arange(9.0),)),
    "mlp": Call(
        lambda x, c, w, v, b: ops.mlp(x, w, None, v, b, time=c, dropout=0.3, seed=4), normals((3,), (6,)),
        (torch.randn(6, 3), torch.randn(4, 6), torch.randn(4)),
    ),
    "sequence_layer": Call(layer_of_sequences, normals((3, 4)), (torch.randn(_LAYER_PLACES[-1][1]) / 2,)),
    "denoise_chain": Call(
        lambda x, c: ops.denoise_chain(x, c, _MLP, SCHEDULE, steps=5, aligned=[16, 8], eta=1.0, seed=2), normals((4,), (3,)),
        differentiable=False,
    ),
    "fusion_chain": Call(
        lambda h, p, q: ops.fusion_chain(h, p, q, torch.ones(*p.shape[:2], dtype=torch.bool), _SESSIONS, SCHEDULE, steps=3, seed=1),
        normals((4,), (2, 4), (2, 4)), differentiable=False,
    ),
    "value_decode": Call(
        lambda m, v: ops.value_decode(m, _DECODER, v, max_tokens=6, temperature=1.0, seed=5), normals((8,)), (VALUES,),
        differentiable=False,
    ),
    "rng.normal": Call(lambda ids: rng.normal(3, ids, 1, 5), lambda B: [torch.arange(B)], differentiable=False),
    "rng.uniform": Call(lambda ids: rng.uniform(3, ids, 1, 5), lambda B: [torch.arange(B)], differentiable=False),
    "rng.philox": Call(
        lambda c, k: rng.philox(c, k), lambda B: [torch.arange(4 * B).view(B, 4), torch.arange(2 * B).view(B, 2)], differentiable=False
    ),
}  # fmt: skip

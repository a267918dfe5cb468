"""One call of each torch op on rows that are drawn anew: for tests of threads, batches and memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ordkernels import nn, ops, rng
from ordkernels.nn.transformer import TransformerLayer
from ordkernels.schedules import NoiseSchedule

D, C, K, L, V, LAYERS = 9, 5, 6, 12, 40, 3


@dataclass(frozen=True)
class OpCall:
    """`op(**rows, **shared)`: `rows` have one row for each example, `shared` none."""

    op: Callable[..., Any]
    rows: dict[str, Tensor]
    shared: dict[str, Any]
    dense: bool = False  # has matrix products, whose order of sums depends on the shape

    def __call__(self, rows: slice | Tensor = slice(None)) -> list[Tensor]:
        out = self.op(**{name: t[rows] for name, t in self.rows.items()}, **self.shared)
        return list(out) if isinstance(out, tuple) else [out]

    @property
    def name(self) -> str:
        return self.op.__name__


@cache
def _modules() -> tuple[Any, ...]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        modules = (
            nn.MLPDenoiser(D, C, hidden=32, time_width=16),
            nn.SessionDenoiser(D, C, hidden=32, time_width=16),
            nn.ValueDecoder(V, d_model=16, heads=2, ffn=32, layers=2),
            TransformerLayer(8, 2, 0.0),
        )
    return tuple(module.eval().requires_grad_(False) for module in modules)


def _tokens(x: Tensor, row_ids: Tensor, dropout: float, seed: int, **weights: Tensor) -> Tensor:
    """ops.sequence_layer on sequences of one length, x [B, L, W]."""
    offsets, layer = torch.arange(x.shape[0] + 1) * x.shape[1], ops.SequenceWeights(*weights.values())
    out = ops.sequence_layer(x.flatten(0, 1), offsets, layer, heads=2, dropout=dropout, seed=seed, row_ids=row_ids)
    return out.view(x.shape)


_tokens.__name__ = "sequence_layer"


def op_calls(B: int, seed: int, dtype: torch.dtype = torch.float32) -> list[OpCall]:
    """Every public op and the row-keyed noise, on B rows. Networks are in fp32, whatever the dtype."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    def uniform(*shape: int) -> Tensor:
        return (0.02 + 0.96 * torch.rand(shape, generator=generator)).to(dtype)

    ids = torch.randint(-(2**40), 2**40, (B,), generator=generator)
    mlp, session, decoder, block = _modules()
    schedule, single = NoiseSchedule.cosine(20), torch.float32
    keyed = {"row_ids": ids}
    state = {"x_t": normal(B, D), "output": normal(B, D)}
    flow = {"u": 0.3 * normal(B, LAYERS, D), "w": 0.3 * normal(B, LAYERS, D), "b": normal(B, LAYERS)}
    times = {"alpha_bar_t": uniform(B) / 2, "alpha_bar_s": (1 + uniform(B)) / 2}
    guided = {"x_t": normal(B, D), "f_un": normal(B, D), "f_cp": normal(B, D), "f_tf": normal(B, D)}
    token_values = torch.cat((torch.zeros(3), torch.arange(V - 3, 0, -1.0)))
    samples, y = {"samples": normal(B, L)}, {"y": normal(B)}
    quantiles = {"q_user": normal(B, L).sort().values, "q_item": normal(B, L).sort().values}
    sessions = {"h_long": normal(B, D, dtype=single), "g_cp": normal(B, K, C, dtype=single), "g_tf": normal(B, K, C, dtype=single)}
    sessions["mask"] = torch.rand(B, K, generator=generator) < 0.7
    hyper = {"weight": 0.2 * normal(LAYERS * (2 * D + 1), C), "bias": normal(LAYERS * (2 * D + 1))}
    network = {"w_in": normal(K, D) / 3, "b_in": normal(K), "w_out": normal(C, K) / 3, "b_out": normal(C)}
    layer = {f"w{i}": t.to(dtype) for i, t in enumerate(block.weights()) if t is not None}
    decoding = {"decoder": decoder, "values": token_values, "max_tokens": 6, "temperature": 0.7, "seed": seed}
    return [
        OpCall(ops.encode_increments, {"y": 5 * uniform(B)}, {"widths": uniform(K)}),
        OpCall(ops.nested_min, {"increments": normal(B, K)}, {"widths": uniform(K)}),
        OpCall(ops.planar_flow, {"z": normal(B, D), **flow}, {}),
        OpCall(ops.planar_flow_inverse, {"z_out": normal(B, D), **flow}, {}),
        OpCall(ops.conditional_planar_flow, {"z": normal(B, D), "h": normal(B, C)}, hyper, dense=True),
        OpCall(ops.mlp, {"x": normal(B, D), "time": normal(B, K), **keyed}, {**network, "dropout": 0.2, "seed": seed}, dense=True),
        OpCall(_tokens, {"x": normal(B, 3, 8), **keyed}, {**layer, "dropout": 0.2, "seed": seed}, dense=True),
        OpCall(ops.q_sample, {"x0": normal(B, D), "noise": normal(B, D), "alpha_bar": uniform(B)}, {}),
        OpCall(ops.predict_x0, {**state, "alpha_bar": uniform(B)}, {"prediction": "v"}),
        OpCall(ops.reverse_step, {**state, **times, **keyed}, {"eta": 1.0, "seed": seed, "step": 3}),
        OpCall(ops.flow_sample, {"x0": normal(B, D), "noise": normal(B, D), "t": uniform(B)}, {}),
        OpCall(ops.flow_step, {"x_t": normal(B, D), "velocity": normal(B, D), "t": uniform(B), "s": uniform(B)}, {}),
        OpCall(ops.guided_posterior_step, {**guided, **times, **keyed}, {"gamma_cp": 2.0, "gamma_tf": 1.0, "seed": seed}),
        OpCall(
            ops.denoise_chain,
            {"x_T": normal(B, D, dtype=single), "cond": normal(B, C, dtype=single), **keyed},
            {"denoiser": mlp, "schedule": schedule, "steps": 5, "aligned": [20, 3], "eta": 1.0, "seed": seed},
            dense=True,
        ),
        OpCall(ops.fusion_chain, {**sessions, **keyed}, {"denoiser": session, "schedule": schedule, "steps": 2, "seed": seed}, dense=True),
        OpCall(ops.embedding_mixup, {"logits": normal(B, V)}, {"embedding": normal(V, D), "window": 5}),
        OpCall(ops.windowed_value, {"logits": normal(B, V)}, {"values": normal(V), "window": 5}),
        OpCall(ops.value_decode, {"memory": normal(B, 16, dtype=single), **keyed}, decoding, dense=True),
        OpCall(ops.wasserstein_quantile_loss, {**samples, **quantiles}, {"lam": 0.8}),
        OpCall(ops.crps, {**samples, **y}, {}),
        OpCall(ops.pinball, {"q": normal(B, L), **y}, {"levels": torch.linspace(0.05, 0.95, L, dtype=torch.float64)}),
        OpCall(ops.interval_score, {"lower": normal(B) - 1, "upper": normal(B) + 9, **y}, {"level": 0.8}),
        OpCall(rng.normal, keyed, {"seed": seed, "step": 3, "width": D}),
        OpCall(rng.uniform, keyed, {"seed": seed, "step": 3, "width": D}),
    ]


def step(call: OpCall) -> list[Tensor]:
    """The gradients of the sum of a call's results: of all floating tensors that have one, those that all rows share included."""
    arguments = {
        name: t.detach().requires_grad_() if isinstance(t, Tensor) and t.is_floating_point() else t
        for name, t in (call.rows | call.shared).items()
    }
    out = call.op(**arguments)
    results = [t.float().sum() for t in (out if isinstance(out, tuple) else (out,)) if t.requires_grad]
    if not results:
        return []
    leaves = [t for t in arguments.values() if isinstance(t, Tensor) and t.requires_grad]
    return [g for g in torch.autograd.grad(sum(results), leaves, allow_unused=True) if g is not None]

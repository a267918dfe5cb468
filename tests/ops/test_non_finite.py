"""NaN, infinity and huge numbers in each input: every backend gives the reference's values and gradients, and no other row changes.

What a NaN row's gradients are: crps NaN throughout; nested_min those of a row that reaches its capacity at the NaN; tokens outside of
the window are never read, and a row of logits without a softmax makes its own gradient and the whole table's NaN. For flows they may
be anything: rows and parameters are compared where the reference is finite.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_extremes import BACKENDS
from torch import Tensor

from ordkernels import ops, use_backend

B = 9
r = torch.randn
# name: (call, inputs, how many of them have rows)
Case = tuple[Callable[..., Any], Callable[[], list[Tensor]], int]
LAYER_SHAPES = ((4,), (4,), (12, 4), (12,), (4, 4), (4,), (4,), (4,), (5, 4), (5,), (4, 5), (4,))
LAYER, ONE_EACH = ops.SequenceWeights(*(r(*shape) for shape in LAYER_SHAPES)), torch.arange(B + 1)  # sequences of one token
CASES: dict[str, Case] = {
    "planar_flow": (ops.planar_flow, lambda: [r(B, 5), r(B, 3, 5) / 3, r(B, 3, 5) / 3, r(B, 3)], 4),
    "planar_flow_inverse": (ops.planar_flow_inverse, lambda: [r(B, 5), r(B, 3, 5) / 3, r(B, 3, 5) / 3, r(B, 3)], 4),
    "conditional_planar_flow": (ops.conditional_planar_flow, lambda: [r(B, 5), r(B, 4), r(22, 4) / 9, r(22) / 9], 2),
    "encode_increments": (ops.encode_increments, lambda: [r(B).abs(), r(4).abs()], 1),
    "nested_min": (ops.nested_min, lambda: [r(B, 4).abs(), r(4).abs()], 1),
    "nested_min capacity": (lambda v, c, w: ops.nested_min(v, w, c), lambda: [r(B, 4).abs(), r(B).abs(), r(4).abs()], 2),
    "nested_min capacity, long": (lambda v, c, w: ops.nested_min(v, w, c), lambda: [r(B, 19).abs(), 9 * r(B).abs(), r(B, 19).abs()], 3),
    "crps": (ops.crps, lambda: [r(B, 7), r(B)], 2),
    "crps fair": (lambda s, y: ops.crps(s, y, fair=True), lambda: [r(B, 7), r(B)], 2),
    "interval_score": (lambda a, b, y: ops.interval_score(a, b, y, 0.8), lambda: [r(B) - 2, r(B) + 2, r(B)], 3),
    "wasserstein": (lambda s, q, p: ops.wasserstein_quantile_loss(s, q, p, lam=0.3), lambda: [r(B, 5) for _ in range(3)], 3),
    "embedding_mixup": (lambda x, e: ops.embedding_mixup(x, e, window=4), lambda: [r(B, 12), r(12, 3)], 1),
    "windowed_value": (lambda x, v: ops.windowed_value(x, v, window=4), lambda: [r(B, 12), r(12)], 1),
    "mlp": (
        lambda x, c, *w: ops.mlp(x, *w, cond=c, dropout=0.5, seed=1),
        lambda: [r(B, 5), r(B, 7), r(7, 5), r(7), r(6, 7), r(6)],
        2,
    ),
    "sequence_layer": (lambda x: ops.sequence_layer(x, ONE_EACH, LAYER, heads=2, dropout=0.5, seed=1), lambda: [r(B, 4)], 1),
    "mlp, networks": (ops.mlp, lambda: [r(B, 3, 5), r(3, 7, 5), r(3, 7), r(3, 2, 7), r(3, 2)], 1),
    "q_sample": (lambda x, n: ops.q_sample(x, n, 0.7), lambda: [r(B, 5), r(B, 5)], 2),
    "predict_x0": (lambda x, o: ops.predict_x0(x, o, 0.7, clip=2.0), lambda: [r(B, 5), r(B, 5)], 2),
    "reverse_step": (
        lambda x, o, n: ops.reverse_step(x, o, 0.5, 0.8, eta=1.0, noise=n, clip=2.0),
        lambda: [r(B, 5) for _ in range(3)],
        3,
    ),
}


def outputs_and_gradients(f: Callable[..., Any], inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    ts = [t.clone().requires_grad_() for t in inputs]
    out = f(*ts)
    outs = [out] if isinstance(out, Tensor) else list(out)
    generator = torch.Generator().manual_seed(3)
    loss = torch.stack([(o * torch.randn(o.shape, generator=generator)).sum() for o in outs]).sum()
    return [o.detach() for o in outs], list(torch.autograd.grad(loss, ts))


def broken(name: str) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
    """(which input, the inputs, the inputs with one number replaced) for each input and number; row B // 2 where it has rows."""
    torch.manual_seed(0)
    inputs = CASES[name][1]()
    for place in range(len(inputs)):
        at_least_zero = place > 0 and name.startswith(("encode", "nested"))  # widths, capacity
        for value in (math.nan, math.inf, 1e38, *((-math.inf,) if not at_least_zero else ())):
            changed = [t.clone() for t in inputs]
            changed[place].view(-1)[changed[place].numel() // 2] = value
            yield place, inputs, changed


def agree(got: Tensor, want: Tensor) -> bool:
    return torch.allclose(got, want, rtol=1e-3, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_backends_agree_on_a_number_that_is_not_finite(backend: str, name: str) -> None:
    f, _, with_rows = CASES[name]
    flow = "flow" in name
    for _place, _inputs, changed in broken(name):
        with use_backend("reference"):
            want, want_g = outputs_and_gradients(f, changed)
        with use_backend(backend):
            got, got_g = outputs_and_gradients(f, changed)
        every = torch.cat([t.flatten(1) if t.dim() > 1 else t[:, None] for t in want + want_g[:with_rows]], 1)
        rows = every.abs().amax(1) < 1e30 if flow else torch.ones(B, dtype=torch.bool)
        for a, b in zip(got + got_g[:with_rows], want + want_g[:with_rows], strict=True):
            assert agree(a[rows], b[rows])
        if rows.all():
            assert all(map(agree, got_g[with_rows:], want_g[with_rows:]))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_other_row_changes(backend: str, name: str) -> None:
    f, _, with_rows = CASES[name]
    others = torch.arange(B) != B // 2
    with use_backend(backend):
        for place, inputs, changed in broken(name):
            if place >= with_rows:
                continue
            (got, got_g), (want, want_g) = outputs_and_gradients(f, changed), outputs_and_gradients(f, inputs)
            for a, b in zip(got + got_g[:with_rows], want + want_g[:with_rows], strict=True):
                assert torch.equal(a[others], b[others])


@pytest.mark.parametrize("name", ["planar_flow", "planar_flow_inverse", "conditional_planar_flow"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1e-25, 1e-21, 1e21])
def test_flows_of_tiny_and_huge_w(backend: str, name: str, size: float) -> None:
    """|w|^2 leaves the range of fp32; against fp64."""
    torch.manual_seed(1)
    w, u, b, z = r(3, 2, 5) * size, r(3, 2, 5) / 3, r(3, 2), r(3, 5)
    inputs = [z, u, w, b]
    f = getattr(ops, name)
    if name.startswith("conditional"):
        inputs = [z, torch.eye(3), torch.cat([u, w, b[..., None]], -1).flatten(1).T.contiguous(), torch.zeros(22)]
    g = r(3, 5)

    def run(dtype: torch.dtype) -> list[Tensor]:
        ts = [t.to(dtype).requires_grad_() for t in inputs]
        out, log_det = f(*ts)
        return [out, log_det, *torch.autograd.grad((out * g.to(dtype)).sum() + log_det.sum(), ts[:1])]

    with use_backend("reference"):
        want = run(torch.float64)
    with use_backend(backend):
        got = run(torch.float32)
    for a, e in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=1e-3, atol=1e-3 * max(1.0, float(e.detach().abs().max())))

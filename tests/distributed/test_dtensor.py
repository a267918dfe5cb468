"""Every op on DTensors, in two processes: values and gradients are those of plain tensors, and rows stay sharded."""

import pytest
import torch
from processes import run

from ordkernels import ops
from ordkernels.nn import MLPDenoiser, SessionDenoiser, ValueDecoder
from ordkernels.schedules import NoiseSchedule

B = 6
IDS = torch.tensor([3, 1, 40, 10**12, -7, 8])
DISTRIBUTED = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


def rows(*shape, positive=False):
    t = torch.randn(B, *shape, dtype=torch.float64)
    return t.abs() if positive else t


def shared(*shape, positive=False):
    t = torch.randn(*shape, dtype=torch.float64)
    return t.abs() if positive else t


def differentiable():
    """name -> (function, tensors with rows, tensors without)."""
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    return {
        "planar_flow": (ops.planar_flow, [rows(5), rows(3, 5) / 5, rows(3, 5) / 5, rows(3)], []),
        "planar_flow, shared": (ops.planar_flow, [rows(2, 5)], [shared(3, 5) / 5, shared(3, 5) / 5, shared(3)]),
        "planar_flow_inverse": (ops.planar_flow_inverse, [rows(5)], [shared(3, 5) / 5, shared(3, 5) / 5, shared(3)]),
        "conditional_planar_flow": (ops.conditional_planar_flow, [rows(5), rows(4)], [shared(22, 4) / 9, shared(22) / 9]),
        "encode_increments": (ops.encode_increments, [rows(positive=True)], [shared(4, positive=True)]),
        "encode_increments, own widths": (ops.encode_increments, [rows(positive=True), rows(4, positive=True)], []),
        "nested_min": (ops.nested_min, [rows(4, positive=True)], [shared(4, positive=True)]),
        "nested_min, capacity": (lambda i, c, w: ops.nested_min(i, w, capacity=c), [rows(4), rows(positive=True)], [shared(4).abs()]),
        "crps": (ops.crps, [rows(7), rows()], []),
        "pinball": (lambda q, y: ops.pinball(q, y, levels.tolist()), [rows(3), rows()], []),
        "interval_score": (lambda low, up, y: ops.interval_score(low, up, y, 0.8), [rows() - 9, rows() + 9, rows()], []),
        "wasserstein_quantile_loss": (
            lambda s, u, v: ops.wasserstein_quantile_loss(s, u, v, lam=0.3), [rows(5), rows(5).sort(1)[0], rows(5).sort(1)[0]], [],
        ),
        "embedding_mixup": (lambda x, e: ops.embedding_mixup(x, e, window=4), [rows(12)], [shared(12, 3)]),
        "windowed_value": (lambda x, v: ops.windowed_value(x, v, window=4), [rows(12)], [shared(12)]),
        "q_sample": (lambda x, n: ops.q_sample(x, n, 0.7), [rows(5), rows(5)], []),
        "predict_x0": (lambda x, o: ops.predict_x0(x, o, 0.7), [rows(5), rows(5)], []),
        "reverse_step": (lambda x, o, n: ops.reverse_step(x, o, 0.5, 0.8, eta=1.0, noise=n), [rows(5), rows(5), rows(5)], []),
        "reverse_step, ids": (lambda x, o: ops.reverse_step(x, o, 0.5, 0.8, eta=1.0, seed=1, row_ids=like(IDS, x)), [rows(5), rows(5)], []),
        "reverse_step, places": (lambda x, o: ops.reverse_step(x, o, 0.5, 0.8, eta=1.0, seed=1), [rows(5), rows(5)], []),
        "guided_posterior_step": (
            lambda x, a, b, c: ops.guided_posterior_step(x, a, b, c, 0.5, 0.8, gamma_cp=2.0, gamma_tf=1.0, seed=1, row_ids=like(IDS, x)),
            [rows(5) for _ in range(4)], [],
        ),
    }  # fmt: skip


def inference():
    denoiser, decoder = (
        MLPDenoiser(8, 4, time_width=8, hidden=8).double().eval(),
        ValueDecoder(12, memory_width=4, d_model=8, heads=2).double().eval(),
    )
    values = torch.cat((torch.zeros(3), torch.arange(9.0, 0, -1))).double()
    mask, schedule = torch.rand(B, 2) < 0.7, NoiseSchedule.linear(50)
    session = SessionDenoiser(5, 3, 8).double().eval()
    return {
        "fusion_chain": (
            lambda h, a, b: ops.fusion_chain(h, a, b, like(mask, h), session, schedule, steps=4, seed=3, row_ids=like(IDS, h)),
            [rows(5), rows(2, 3), rows(2, 3)], [],
        ),
        "denoise_chain": (
            lambda x, c: ops.denoise_chain(x, c, denoiser, schedule, steps=5, aligned=[40, 10], eta=1.0, seed=3),
            [rows(8), rows(4)], [],
        ),
        "value_decode": (lambda m: ops.value_decode(m, decoder, values, max_tokens=6), [rows(4)], []),
    }  # fmt: skip


def like(t, x):
    """t, distributed as x is."""
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    if not isinstance(x, DTensor):
        return t
    return distribute_tensor(t, x.device_mesh, [p if p == Shard(0) else Replicate() for p in x.placements])


def outputs(out):
    return [out] if isinstance(out, torch.Tensor) else list(out)


def check(name, function, of_rows, of_all, mesh, gradients):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    plain = [t.clone().requires_grad_(gradients) for t in (*of_rows, *of_all)]
    expected = outputs(function(*plain))
    if gradients:
        sum((out.sin() * (k + 1)).sum() for k, out in enumerate(expected)).backward()
    for placement in (Shard(0), Replicate(), Shard(1)):
        places = [placement if t.dim() > 1 or placement != Shard(1) else Replicate() for t in of_rows] + [Replicate()] * len(of_all)
        given = [distribute_tensor(t, mesh, [p]).requires_grad_(gradients) for t, p in zip((*of_rows, *of_all), places, strict=True)]
        found = outputs(function(*given))
        for out, want in zip(found, expected, strict=True):
            if placement == Shard(0) and "places" not in name:
                assert out.placements == (Shard(0),), name
            torch.testing.assert_close(
                out.full_tensor(), want, rtol=1e-12, atol=1e-12, msg=lambda text, p=placement: f"{name}, {p}: {text}"
            )
        if gradients:
            sum((out.sin() * (k + 1)).sum() for k, out in enumerate(found)).backward()
            for ours, want in zip(given, plain, strict=True):
                torch.testing.assert_close(ours.grad.full_tensor(), want.grad, rtol=1e-11, atol=1e-11, msg=lambda text: f"{name}: {text}")


def all_ops(rank, kind):
    from torch.distributed.tensor import init_device_mesh
    from torch.distributed.tensor.experimental import implicit_replication

    import ordkernels.distributed  # noqa: F401

    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    for name, (function, of_rows, of_all) in (differentiable() if kind == "differentiable" else inference()).items():
        with implicit_replication():
            check(name, function, of_rows, of_all, mesh, kind == "differentiable")


@DISTRIBUTED
@pytest.mark.parametrize("kind", ["differentiable", "inference"])
def test_dtensors(kind):
    run(all_ops, 2, kind)


@DISTRIBUTED
def test_every_op_has_a_rule():
    from torch.distributed.tensor import DTensor

    import ordkernels.distributed

    known = DTensor._op_dispatcher.sharding_propagator.op_strategy_funcs
    for name in ordkernels._library.definitions():
        name = name.partition("(")[0]
        assert ordkernels._library.op(name) in known or name in ("isa", "_vmath"), name

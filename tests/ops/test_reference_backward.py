"""The backward definitions, which run where an op has no kernel: against finite differences, and autograd of the forward definition."""

import importlib
import pkgutil
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import ordkernels
from ordkernels import ops
from ordkernels.ops._register import DifferentiableOp

B = 5
Call = tuple[Callable[..., object], list[Tensor]]


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def levels(*shape: int, low: float = 0.3) -> Tensor:
    return low + 0.15 * torch.rand(shape, dtype=torch.float64)


def increments() -> dict[str, Call]:
    y, v, w = (
        f64([0.4, 1.7, 2.9, 4.3, -0.2]),
        0.9 * torch.rand(B, 4).double(),
        f64([1.0, 0.5, 2.0, 0.6]),
    )
    v[0] -= 0.5
    v[1, 1:3] += torch.tensor([0.7, 1.5])
    capacity = f64([0.2, 1.1, 9.0, 1.3, 0.7])
    wide = w + 0.1 * torch.rand(B, 4).double()
    return {
        "encode_increments": (ops.encode_increments, [y, w]),
        "encode_increments, widths per row": (ops.encode_increments, [y, wide]),
        "nested_min, no capacity": (ops.nested_min, [v, w]),
        "nested_min, a number": (lambda v, w: ops.nested_min(v, w, 1.15), [v, w]),
        "nested_min, a number, widths per row": (lambda v, w: ops.nested_min(v, w, 1.15), [v, wide]),
        "nested_min, one increment": (lambda v, w: ops.nested_min(v, w, 0.8), [v[:, :1], w[:1]]),
        "nested_min, capacity per row": (ops.nested_min, [v, w, capacity]),
    }


def scores() -> dict[str, Call]:
    s, y, q, p = normal(B, 6), normal(B), normal(B, 6), normal(B, 6)
    level = torch.rand(6).double()
    lower, upper = f64([-1.0, 0.5, 2.0, -3.0, 0.0]), f64([1.0, 0.7, 2.5, -1.0, 0.1])
    label = f64([0.2, 0.1, 3.0, -2.0, 0.7])
    lam = torch.rand(B).double()

    def wasserstein(s: Tensor, q: Tensor, p: Tensor, lam: Tensor) -> Tensor:
        return ops.wasserstein_quantile_loss(s, q.sort(1).values, p.sort(1).values, lam=lam)

    return {
        "crps": (ops.crps, [s, y]),
        "crps, fair": (lambda s, y: ops.crps(s, y, fair=True), [s, y]),
        "pinball": (lambda q, y: ops.pinball(q, y, level), [q, y]),
        "interval_score": (lambda a, b, y: ops.interval_score(a, b, y, 0.7), [lower, upper, label]),
        "wasserstein_quantile_loss": (wasserstein, [s, q, p, lam]),
    }


def tokens() -> dict[str, Call]:
    x, e, v = normal(B, 9), normal(9, 4), normal(9)
    x[0, 1] += 9  # a special token is the likeliest
    x[1, 3] += 9  # the first value token is: the window is cut
    calls: dict[str, Call] = {}
    for window in (None, 0, 1, 4):
        calls[f"embedding_mixup, window {window}"] = (lambda x, e, window=window: ops.embedding_mixup(x, e, window=window), [x, e])
        calls[f"windowed_value, window {window}"] = (lambda x, v, window=window: ops.windowed_value(x, v, window=window), [x, v])
    return calls


def noising() -> dict[str, Call]:
    x, noise, a = normal(B, 4), normal(B, 4), levels(B)
    trees, each = normal(B, 3, 4), levels(B, 3)
    calls: dict[str, Call] = {}
    for name, sample in (("q_sample", ops.q_sample), ("flow_sample", ops.flow_sample)):
        calls[name] = (sample, [x, noise, a])
        calls[f"{name}, a number"] = (lambda x, n, sample=sample: sample(x, n, 0.4), [x, noise])
        calls[f"{name}, K of a row"] = (sample, [x, trees, each])
        calls[f"{name}, K rows"] = (sample, [normal(B, 3, 4), trees, each])
    return calls


def steps() -> dict[str, Call]:
    x, out, noise, t, s = normal(B, 4), normal(B, 4), normal(B, 4), levels(B), levels(B, low=0.6)
    trees = [normal(B, 3, 4), normal(B, 3, 4), levels(B, 3), levels(B, 3, low=0.6)]
    calls: dict[str, Call] = {
        "flow_step": (ops.flow_step, [x, out, s, t]),
        "flow_step, numbers": (lambda x, v: ops.flow_step(x, v, 0.8, 0.3), [x, out]),
    }
    for kind in ("eps", "x0", "v"):
        calls[f"predict_x0, {kind}"] = (lambda x, o, t, kind=kind: ops.predict_x0(x, o, t, prediction=kind), [x, out, t])
        calls[f"predict_x0, {kind}, clipped"] = (
            lambda x, o, kind=kind: ops.predict_x0(x, o, 0.4, prediction=kind, clip=0.8), [x, out],
        )  # fmt: skip
        for options in ({}, {"clip": 0.8}, {"clip": 0.8, "use_clipped_model_output": True}):
            name = f"reverse_step, {kind}, {', '.join(options)}"
            step = partial(ops.reverse_step, prediction=kind, **options)
            calls[name] = (step, [x, out, t, s])
            calls[f"{name}, noise"] = (lambda x, o, t, s, n, step=step: step(x, o, t, s, eta=0.7, noise=n), [x, out, t, s, noise])
            calls[f"{name}, seed"] = (partial(step, eta=0.7, seed=3, step=2), trees)
    for gammas in ((2.0, 0.5), (0.0, 0.5), (2.0, 0.0)):
        for variance in ("posterior", "beta"):
            options = {"gamma_cp": gammas[0], "gamma_tf": gammas[1], "variance": variance}
            calls[f"guided_posterior_step, {gammas}, {variance}"] = (
                lambda x, u, c, f, t, s, n, options=options: ops.guided_posterior_step(x, u, c, f, t, s, noise=n, **options),
                [x, out, normal(B, 4), normal(B, 4), t, s, noise],
            )
            calls[f"guided_posterior_step, {gammas}, {variance}, seed"] = (
                lambda x, u, t, s, options=options: ops.guided_posterior_step(x, u, u * u, x * u, t, s, seed=3, step=1, **options), trees,
            )  # fmt: skip
    return calls


def flows() -> dict[str, Call]:
    z, u, w, b = normal(B, 4), normal(B, 2, 4), normal(B, 2, 4), normal(B, 2)
    return {
        "planar_flow": (ops.planar_flow, [z, u, w, b]),
        "planar_flow, shared": (ops.planar_flow, [z, u[0], w[0], b[0]]),
        "planar_flow_inverse": (ops.planar_flow_inverse, [z, u, w, b]),
        "conditional_planar_flow": (ops.conditional_planar_flow, [normal(B, 3, 4), normal(B, 5), normal(18, 5) / 3, normal(18)]),
    }


def networks() -> dict[str, Call]:
    x, c, index = normal(B, 4), normal(3, 6), torch.arange(B) % 3
    weights = [normal(6, 4), normal(6), normal(5, 6), normal(5)]
    layer = [normal(*s) for s in ((4,), (4,), (12, 4), (12,), (4, 4), (4,), (4,), (4,), (5, 4), (5,), (4, 5), (4,), (4,), (4,))]
    grouped = [normal(2, 6, 4), normal(2, 6), normal(2, 1, 6), normal(2, 1)]
    return {
        "mlp": (ops.mlp, [x, *weights]),
        "mlp, rows, dropout": (
            lambda x, c, t, *w: ops.mlp(x, *w, cond=c, cond_index=index, time=t, dropout=0.4, seed=2), [x, c, normal(1, 6), *weights],
        ),
        "mlp, own rows": (lambda x, c, *w: ops.mlp(x, *w, cond=c), [x, normal(B, 6), *weights]),
        **{
            f"sequence_layer, {norm}, {activation}": (
                lambda x, m, *w, norm=norm, activation=activation: ops.sequence_layer(
                    x, torch.tensor([0, 3, 3, B]), ops.SequenceWeights(*w), heads=2, norm=norm, activation=activation, memory=m,
                    causal=activation == "relu", dropout=0.4, seed=2,
                ),
                [normal(B, 4), normal(3, 4), *layer[: 14 if norm == "post" else 12]],
            )
            for norm in ("pre", "post") for activation in ("silu", "relu", "gelu")
        },
        "mlp, networks": (lambda *a: ops.mlp(*a, dropout=0.4, seed=2), [normal(B, 2, 4), *grouped]),
        "mlp, networks, one input": (ops.mlp, [normal(B, 1, 4), *grouped]),
    }  # fmt: skip


torch.manual_seed(7)
CALLS = increments() | scores() | tokens() | noising() | steps() | flows() | networks()


def as_its_fake(op: DifferentiableOp, backward: Callable[..., object], *arguments: object) -> object:
    """The gradients, which have the shapes and dtypes that compiled code expects: those not asked for are empty."""
    out = backward(*arguments)
    with FakeTensorMode() as mode, torch.no_grad():
        fake = op.op_backward_without_autograd(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments))
    assert [(t.shape, t.dtype) for t in as_tuple(out)] == [(t.shape, t.dtype) for t in as_tuple(fake)]
    return out


@pytest.fixture
def fallback(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Eager calls run on the definitions of forward and backward; the names of the ops that do."""
    found = set()
    for module in (importlib.import_module(f"ordkernels.ops.{m.name}") for m in pkgutil.iter_modules(ops.__path__)):
        for op in vars(module).values():
            if isinstance(op, DifferentiableOp):
                definitions = importlib.import_module(f"ordkernels.reference.{op.name}")
                backward = partial(as_its_fake, op, getattr(definitions, f"{op.name}_backward"))
                monkeypatch.setattr(op, "kernels", (op.reference, backward))
                found.add(op.name)
    return found


def as_tuple(out: object) -> tuple[Tensor, ...]:
    return (out,) if isinstance(out, Tensor) else tuple(out)


def gradients(call: Callable[..., object], inputs: list[Tensor], asked: int | None = None, output: int | None = None) -> list[Tensor]:
    """Of all inputs, or the one asked for; from all outputs, or from one."""
    inputs = [t.detach().requires_grad_(asked in (None, i)) for i, t in enumerate(inputs)]
    out = [o for i, o in enumerate(as_tuple(call(*inputs))) if output in (None, i) and o.requires_grad]
    wanted = [t for t in inputs if t.requires_grad]
    if not out:
        return [torch.zeros_like(t) for t in wanted]
    weights = [torch.linspace(1, 2, o.numel(), dtype=o.dtype).view(o.shape) for o in out]
    found = torch.autograd.grad(out, wanted, weights, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, wanted, strict=True)]


def test_every_differentiable_op_is_here(fallback):
    assert fallback == {name.partition(",")[0] for name in CALLS} - {"flow_sample", "flow_step"}  # those are served by two others


@pytest.mark.parametrize("name", CALLS)
def test_finite_differences(name, fallback):
    call, inputs = CALLS[name]
    inputs = [t.clone().requires_grad_() for t in inputs]
    torch.manual_seed(1)
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True, atol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_as_autograd_of_the_definition(name, fallback):
    """Each gradient, also asked for alone and from one output alone; in fp64 and fp32."""
    call, inputs = CALLS[name]
    outputs = len(as_tuple(call(*inputs)))
    for asked in (None, *range(len(inputs))):
        for output in (None, *range(outputs)) if outputs > 1 else (None,):
            with ordkernels.use_backend("reference"):
                expected = gradients(call, inputs, asked, output)
            torch.testing.assert_close(gradients(call, inputs, asked, output), expected)
    if name.startswith(("q_sample", "flow", "reverse", "predict", "guided")):
        return  # levels are fp32 there
    narrow = [t.float() for t in inputs]
    with ordkernels.use_backend("reference"):
        expected = gradients(call, narrow)
    torch.testing.assert_close(gradients(call, narrow), expected)


TIES: dict[str, Call] = {
    "pinball": (
        lambda q, y: ops.pinball(q, y, f64([0.1, 0.9])),
        [f64([[1.0, 2.0], [torch.nan, 3.0]]), f64([1.0, 3.0])],
    ),
    "interval_score": (
        lambda a, b, y: ops.interval_score(a, b, y, 0.5),
        [f64([1.0, 0.0, torch.nan]), f64([2.0, 1.0, 1.0]), f64([1.0, 1.0, 0.5])],
    ),
    "crps": (ops.crps, [f64([[1.0, 1.0, 2.0], [0.0, 3.0, 3.0]]), f64([1.0, 3.0])]),
    "wasserstein_quantile_loss": (
        lambda s, p, q: ops.wasserstein_quantile_loss(s, p, q, lam=0.3),
        [f64([[2.0, 1.0, 2.0]]), f64([[1.0, 2.0, 3.0]]), f64([[0.0, 2.0, 2.0]])],
    ),
    "encode_increments": (
        ops.encode_increments, [f64([0.0, 1.0, 1.5, 4.0]), f64([1.0, 0.5, 2.0])],
    ),
    "nested_min": (
        lambda v, w: ops.nested_min(v, w, 1.5), [f64([[1.0, 0.5, 2.0], [0.0, 1.5, 1.0]]), f64([1.0, 1.5, 2.0])],
    ),
    "nested_min, capacity": (
        ops.nested_min,
        [f64([[1.0, 0.5, 2.0], [0.5, 0.25, 0.25]]), f64([1.0, 0.5, 2.0]), f64([1.5, 3.0])],
    ),
    "predict_x0": (
        lambda x, o: ops.predict_x0(x, o, 0.25, prediction="x0", clip=1.0), [f64([[1.0, 1.0, 1.0]]), f64([[1.0, -1.0, 2.0]])],
    ),
    "embedding_mixup": (lambda x, e: ops.embedding_mixup(x, e, window=2), [f64([[0.0] * 6] * 2), torch.eye(6).double()]),
    "windowed_value": (lambda x, v: ops.windowed_value(x, v, window=2), [f64([[0.0] * 6] * 2), f64(range(6))]),
}  # fmt: skip


@pytest.mark.parametrize("name", TIES)
def test_ties_and_nan_as_autograd_of_the_definition(name, fallback):
    call, inputs = TIES[name]
    with ordkernels.use_backend("reference"):
        expected = gradients(call, inputs)
    torch.testing.assert_close(gradients(call, inputs), expected, equal_nan=True)


def test_no_noise_where_the_last_step_takes_none(fallback):
    """alpha_bar_s = 1: not even infinite noise is read, nor does any gradient come from it."""
    x, f, noise = normal(3, 3), [normal(3, 3) for _ in range(3)], normal(3, 3)
    t, s = f64([0.5, 0.4, 0.6]), f64([1.0, 0.7, 0.6])  # the last step goes nowhere, also without noise

    def found(noise: Tensor) -> list[Tensor]:
        return gradients(partial(ops.guided_posterior_step, gamma_cp=2.0, gamma_tf=0.5), [x, *f, t, s], noise)

    def gradients(step: Callable[..., object], inputs: list[Tensor], noise: Tensor) -> list[Tensor]:
        inputs = [a.detach().requires_grad_() for a in (*inputs, noise)]
        out = step(*inputs[:-1], noise=inputs[-1])[0]
        return [out, *torch.autograd.grad(out.sum(), inputs)]

    infinite = noise.clone()
    infinite[0] = torch.inf
    torch.testing.assert_close(found(infinite), found(noise))
    assert all(g.isfinite().all() for g in found(noise))
    assert found(noise)[-1][0].tolist() == [0, 0, 0]

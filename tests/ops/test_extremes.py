"""Numbers at the edges of their type, non-finite ones, lazy views: the right value on every backend; errors that name the argument."""

import copy
import math
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ordkernels
from ordkernels import ops, rng, use_backend
from ordkernels.nn import MLPDenoiser, SessionDenoiser, ValueDecoder
from ordkernels.schedules import NoiseSchedule

INF, NAN = math.inf, math.nan
_TRITON = "; ".join(ordkernels.available_backends("crps")["triton"])
TRITON = pytest.param("triton", marks=[pytest.mark.triton, pytest.mark.skipif(bool(_TRITON), reason=_TRITON or "-")])
BACKENDS = ["reference", pytest.param("cpu", marks=pytest.mark.native), TRITON]
DEVICE = os.environ.get("ORDKERNELS_TEST_DEVICE", "cpu")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def on_device() -> Any:
    with torch.device(DEVICE):
        yield


def exact_layer(u: Tensor, w: Tensor, tanh: float, smooth: bool) -> Tensor:
    """uhat tanh(a) of one layer, in fp64 and without cancellation: m(x) - x from expm1 and log1p."""
    u, w = u.double(), w.double()
    x = (u * w).sum()
    rest = torch.log1p(torch.expm1(-x) / math.e) if smooth else torch.nn.functional.softplus(-x) - 1
    return (u + rest * (w / w.norm()) / w.norm()) * tanh


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.3, 1e-2, 1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("rows", ["shared", "own"])
def test_smooth_layers_of_small_w(backend: str, dtype: torch.dtype, size: float, rows: str) -> None:
    u, w, b = torch.randn(1, 8, dtype=dtype), torch.full((1, 8), size, dtype=dtype), torch.tensor([20.0], dtype=dtype)
    parameters = (u, w, b) if rows == "shared" else (u[None].expand(3, 1, 8), w[None].expand(3, 1, 8), b[None].expand(3, 1))
    with use_backend(backend):
        z, log_det = ops.planar_flow(torch.zeros(3, 8, dtype=dtype), *parameters, constrained="smooth")
        back, _ = ops.planar_flow_inverse(z, *parameters, constrained="smooth")
    tolerance = 3e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(z.double(), exact_layer(u[0], w[0], 1.0, True).expand(3, 8), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(back, torch.zeros_like(z), rtol=0, atol=10 * tolerance)
    assert log_det.isfinite().all()


@each_backend
@pytest.mark.parametrize("constrained", [True, "smooth"])
def test_large_products_of_parameters_do_not_cancel(backend: str, constrained: Any) -> None:
    u, w = torch.tensor([[1e30, 2.0]]), torch.tensor([[1.0, 1.0]])
    with use_backend(backend):
        z, _ = ops.planar_flow(torch.zeros(2, 2), u, w, torch.tensor([20.0]), constrained=constrained)
    rest = math.log(math.e - 1) - 1 if constrained == "smooth" else -1.0  # m(x) - x of large x
    torch.testing.assert_close(z[:, 1], torch.full((2,), 2 + rest / 2))


@each_backend
def test_a_gradient_at_w_u_zero(backend: str) -> None:
    u, w = torch.tensor([[0.0, 1.0]], requires_grad=True), torch.tensor([[1.0, 0.0]], requires_grad=True)
    with use_backend(backend):
        z, _ = ops.planar_flow(torch.zeros(1, 2), u, w, torch.tensor([20.0]), constrained="smooth")
        (g,) = torch.autograd.grad(z[0, 0], u)
    torch.testing.assert_close(g, torch.tensor([[1 - 1 / math.e, 0.0]]))  # m'(0)


@each_backend
@pytest.mark.parametrize("op", [ops.planar_flow, ops.planar_flow_inverse])
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_log_det_is_nan_where_z_is(backend: str, op: Callable[..., Any], place: int, value: float) -> None:
    arguments = [torch.randn(3, 4), torch.full((2, 4), 0.3), torch.full((2, 4), 0.2), torch.zeros(2)]
    arguments[place].view(-1)[1] = value
    with use_backend(backend):
        z, log_det = op(*arguments)
    assert (z.isnan().any(1) <= log_det.isnan()).all()


@each_backend
def test_the_inverse_of_an_infinite_row_is_infinite(backend: str) -> None:
    with use_backend(backend):
        z, log_det = ops.planar_flow_inverse(torch.tensor([[INF, 1.0]]), *torch.full((2, 1, 2), 0.3), torch.zeros(1))
    assert z[0, 0] == INF
    assert z[0, 1].isfinite()
    assert log_det == 0


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wasserstein_sums_may_overflow_where_the_mean_does_not(backend: str, dtype: torch.dtype) -> None:
    large = torch.finfo(dtype).max / 3
    s, q = torch.zeros(2, 6, dtype=dtype), torch.full((2, 6), large, dtype=dtype)
    q[1] = 1.0
    lam = torch.tensor(0.5, dtype=dtype, requires_grad=True)
    with use_backend(backend):
        loss = ops.wasserstein_quantile_loss(s, q, 0 * q, lam=lam)
        (slope,) = torch.autograd.grad(loss[0], lam)
    torch.testing.assert_close(loss.detach(), torch.tensor([large / 2, 0.5], dtype=dtype))
    torch.testing.assert_close(slope, torch.tensor(large, dtype=dtype))


@each_backend
@pytest.mark.parametrize("fair", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("L", [2, 3, 7, 20])
@pytest.mark.parametrize("y", [INF, -INF])
def test_crps_of_an_infinite_observation_is_infinite(backend: str, fair: bool, dtype: torch.dtype, L: int, y: float) -> None:
    s = torch.randn(3, L, dtype=dtype)
    s[1, 0] = y  # inf - inf
    with use_backend(backend):
        got = ops.crps(s.requires_grad_(), torch.tensor([y, y, 0.0], dtype=dtype), fair=fair).detach()
    assert got[0] == INF
    assert got[1].isnan()
    assert got[2].isfinite()


@each_backend
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("per_row", [True, False])
def test_a_row_at_alpha_bar_one_stays_at_its_estimate(backend: str, prediction: Any, eta: float, per_row: bool) -> None:
    x, output = torch.randn(2, 3, 8).unbind(0)
    levels = (torch.tensor([0.2, 1.0, 0.5]), torch.tensor([0.5, 1.0, 1.0])) if per_row else (1.0, 1.0)
    with use_backend(backend):
        x_s, x0 = ops.reverse_step(x, output, *levels, prediction=prediction, eta=eta, seed=0)
        posterior, f = ops.guided_posterior_step(x, output, output, output, *levels, gamma_cp=2.0, gamma_tf=1.0, seed=0)
    assert x_s.isfinite().all()
    assert posterior.isfinite().all()
    torch.testing.assert_close(x_s[1], x0[1])
    torch.testing.assert_close(posterior[1], f[1])


@each_backend
@pytest.mark.parametrize("T", [2001, 4000])
def test_chains_of_more_than_2000_steps(backend: str, T: int) -> None:
    """Their first alpha_bars are 1. The same as the definition in fp64, and finite."""
    schedule = NoiseSchedule.linear(T)
    assert schedule.exact[1] == 1
    steps, ids, sessions = [T, T - 1, T // 2, 2, 1], torch.arange(3), torch.ones(3, 2, dtype=torch.bool)
    x, cond, guidance = torch.randn(3, 8), torch.randn(3, 4), torch.randn(3, 2, 4)
    mlp, session = MLPDenoiser(8, cond_width=4, hidden=16).eval(), SessionDenoiser(8, 4, hidden=16).eval()

    def chains(dtype: torch.dtype) -> list[Tensor]:
        a, b, c = x.to(dtype), cond.to(dtype), guidance.to(dtype)
        network, of_sessions = (copy.deepcopy(m).to(dtype) for m in (mlp, session))
        x_0, states = ops.denoise_chain(a, b, network, schedule, steps=steps, aligned=[T, 1], eta=1.0, seed=3, row_ids=ids)
        return [x_0, states, ops.fusion_chain(a, c, c, sessions, of_sessions, schedule, steps=steps, seed=3, row_ids=ids)]

    with use_backend("reference"):
        expected = chains(torch.float64)
    with use_backend(backend):
        got = chains(torch.float32)
    assert all(t.isfinite().all() for t in expected)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g.double(), e, rtol=1e-4, atol=1e-4)


DECODER_VALUES = torch.cat((torch.zeros(3), torch.arange(6.0, 0, -1)))


def decoder() -> ValueDecoder:
    return ValueDecoder(9, 8, 2, 16, 1).eval()


@each_backend
@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-38, 1e-39, 1e-320])
def test_a_vanishing_temperature_is_greedy(backend: str, temperature: float) -> None:
    memory, model = torch.randn(50, 8), decoder()
    with use_backend(backend):
        greedy = ops.value_decode(memory, model, DECODER_VALUES.to(DEVICE), max_tokens=6)
        got = ops.value_decode(memory, model, DECODER_VALUES.to(DEVICE), max_tokens=6, temperature=temperature)
    assert torch.equal(got.tokens, greedy.tokens)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_huge_temperature_is_uniform(backend: str, dtype: torch.dtype) -> None:
    if backend == "triton" and dtype == torch.float64:
        pytest.skip("its kernel is fp32's")
    with use_backend(backend):
        got = ops.value_decode(
            torch.ones(400, 8, dtype=dtype), decoder().to(dtype), DECODER_VALUES.to(DEVICE), max_tokens=2, temperature=1e300, monotone=True
        )
    assert not got.value.isnan().any()
    counts = torch.bincount(got.tokens[:, 0], minlength=9)
    assert counts[:2].sum() == 0  # PAD and SOS stay masked
    assert (counts[2:] > 25).all()  # 57 each are expected


@each_backend
def test_a_memory_that_overflows_a_norm_is_nan(backend: str) -> None:
    memory = torch.full((1, 8), 1e25)
    memory[0, ::2] *= -1
    with use_backend(backend):
        assert ops.value_decode(memory, decoder(), DECODER_VALUES.to(DEVICE), max_tokens=6).value.isnan()


@each_backend
def test_infinite_increments_and_widths(backend: str) -> None:
    with use_backend(backend):
        value, parts = ops.nested_min(torch.tensor([[1.0, INF], [-INF, 0.5]]), torch.ones(2))
        encoded = ops.encode_increments(torch.tensor([INF, -INF]), torch.ones(3))
        unbounded = ops.encode_increments(torch.tensor([2.5]), torch.tensor([1.0, INF]))
    assert torch.equal(parts, torch.tensor([[1.0, 1.0], [0.0, 0.5]]))
    assert torch.equal(value, torch.tensor([2.0, 0.5]))
    assert torch.equal(encoded, torch.tensor([[1.0] * 3, [0.0] * 3]))
    assert torch.equal(unbounded, torch.tensor([[1.0, 1.5]]))


@each_backend
def test_a_nan_of_a_token_outside_the_window_is_not_read(backend: str) -> None:
    logits, values = torch.tensor([[0.0, 0, 0, 0, 9, 0, 0]]), torch.arange(7.0)
    with use_backend(backend):
        want = ops.windowed_value(logits, values, window=2)
        values[0] = NAN
        assert torch.equal(ops.windowed_value(logits, values, window=2), want)


def lazily_negated(t: Tensor) -> Tensor:
    """A view whose memory holds -t."""
    view = torch.complex(torch.zeros_like(t), -t).conj().imag
    assert view.is_neg()
    return view


@each_backend
def test_lazy_views_are_resolved(backend: str) -> None:
    t, x, noise = torch.tensor([0.2, 0.5]), torch.ones(2, 3), torch.randn(2, 3)
    with use_backend(backend):
        want = ops.flow_sample(x, noise, t)
        assert torch.equal(ops.flow_sample(lazily_negated(x), lazily_negated(noise), lazily_negated(t)), want)
        z = torch.randn(2, 3, requires_grad=True)
        u, w, b = torch.randn(1, 3), torch.randn(1, 3), torch.zeros(1)
        (g,) = torch.autograd.grad(ops.planar_flow(z, u, w, b)[0], z, lazily_negated(noise))
        (expected,) = torch.autograd.grad(ops.planar_flow(z, u, w, b)[0], z, noise)
        assert torch.equal(g, expected)


X = torch.ones(2, 4)
NAMED: dict[str, Callable[[], Any]] = {
    "capacity": lambda: ops.nested_min(X, torch.ones(4), torch.tensor([NAN, -1.0])),
    "capacity of many rows": lambda: ops.nested_min(torch.ones(40, 4), torch.ones(4), torch.tensor([NAN, -1.0] * 20)),
    "t": lambda: ops.flow_sample(X, X, torch.tensor([NAN, 5.0])),
    "alpha_bar": lambda: ops.q_sample(X, X, torch.tensor([NAN, 2.0])),
    "alpha_bar of 0": lambda: ops.q_sample(X, X, torch.tensor([NAN, 0.0])),
    "widths": lambda: ops.encode_increments(torch.tensor([2.5]), torch.tensor([1.0, -1.0, 1.0])),
    "widths beside a NaN": lambda: ops.nested_min(X, torch.tensor([NAN, 1.0, -1.0, 1.0])),
    "widths of each row": lambda: ops.nested_min(X, torch.tensor([[1.0, 1, 1, 1], [1, 1, NAN, -1]])),
    "z": lambda: ops.planar_flow(X.to_sparse(), X, X, torch.ones(2)),
    "y of crps": lambda: ops.crps(X, torch.ones(2).to_sparse()),
    "q of pinball": lambda: ops.pinball(X.to_sparse(), torch.ones(2), [0.1, 0.2, 0.3, 0.4]),
    "x_t": lambda: ops.reverse_step(X.to_sparse(), X.to_sparse(), 0.3, 0.6),
    "row_ids of a step": lambda: ops.reverse_step(X, X, 0.3, 0.6, eta=1.0, seed=0, row_ids=torch.arange(2).to_sparse()),
    "values": lambda: ops.value_decode(torch.ones(1, 8), decoder(), DECODER_VALUES.to_sparse()),
    "fair of a tensor": lambda: ops.crps(X, torch.ones(2), fair=torch.ones(2)),  # type: ignore[arg-type]
    "use_clipped_model_output": lambda: ops.reverse_step(X, X, 0.3, 0.6, use_clipped_model_output="yes"),  # type: ignore[arg-type]
    "fair": lambda: ops.crps(X, torch.ones(2), fair="yes"),  # type: ignore[arg-type]
    "window": lambda: ops.windowed_value(X, torch.ones(4), window=2**63),
    "lam": lambda: ops.wasserstein_quantile_loss(X, X, X, lam=10**400),
    "clip": lambda: ops.predict_x0(X, X, 0.5, clip=10**400),
    "row_ids": lambda: rng.uniform(0, [2**64 - 1], 0, 1),
}


@pytest.mark.parametrize("name", NAMED)
def test_errors_name_the_argument(name: str) -> None:
    with torch.device("cpu"), pytest.raises((TypeError, ValueError), match=f"^{name.split(' ')[0]}: "):
        NAMED[name]()


def test_row_ids_of_any_column() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"row": [10, 11, 12]})
    want = rng.normal(0, [11, 12], 0, 3)
    assert torch.equal(rng.normal(0, frame[frame.row > 10]["row"], 0, 3), want)
    assert torch.equal(rng.normal(0, np.array([12, 11], ">i4")[::-1], 0, 3), want)
    with pytest.raises(ValueError, match=r"^row_ids: expected no NaN, got 1 of 2 missing"):
        rng.normal(0, pd.Series([1, None], dtype="Int64"), 0, 3)


@pytest.mark.native
def test_weights_that_another_thread_changes_are_not_cached_torn() -> None:
    """What is packed while they change must not be taken for what they are later."""
    model = MLPDenoiser(8, cond_width=2, hidden=64).eval()
    x, c, schedule = torch.ones(1, 8), torch.ones(1, 2), NoiseSchedule.cosine(10)
    weight = model.weights().w_out.detach()
    first = weight.clone()
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            weight.add_(1.0)
            weight.copy_(first)

    def run() -> Tensor:
        return ops.denoise_chain(x, c, model, schedule, steps=2, aligned=[10, 5])[0]

    want = run()
    thread = threading.Thread(target=change)
    thread.start()
    for _ in range(300):
        run()
    stop.set()
    thread.join()
    assert torch.equal(run(), want)


def test_changes_of_weights_born_in_inference_mode_count() -> None:
    x, c, schedule = torch.ones(1, 8), torch.ones(1, 2), NoiseSchedule.cosine(10)
    with torch.inference_mode():
        model = MLPDenoiser(8, cond_width=2, hidden=16).eval()
        before = ops.denoise_chain(x, c, model, schedule, steps=2, aligned=[10, 5])[0]
        model.weights().frequencies.mul_(0.5)
        after = ops.denoise_chain(x, c, model, schedule, steps=2, aligned=[10, 5])[0]
        with use_backend("reference"):
            want = ops.denoise_chain(x, c, model, schedule, steps=2, aligned=[10, 5])[0]
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, want)


def child(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.native
def test_an_instruction_set_in_capitals_counts_and_an_unknown_one_warns() -> None:
    code = "import torch, ordkernels.ops; print(torch.ops.ordkernels.isa())"
    assert child(code, ORDKERNELS_ISA="BASE").stdout.strip() == "base"
    unknown = child(code, ORDKERNELS_ISA="sse9")
    assert "ORDKERNELS_ISA: expected base, avx2 or avx512, got 'sse9'" in unknown.stderr
    assert child(code, ORDKERNELS_ISA="").stderr == ""


def test_a_missing_compiled_data_side_warns_once() -> None:
    from ordkernels import _backend

    hidden = sys.modules.get("ordkernels._host")
    _backend.host_module.cache_clear(), _backend.host_reason.cache_clear()
    sys.modules["ordkernels._host"] = None  # type: ignore[assignment]
    try:
        with pytest.warns(UserWarning, match="NumPy reference, without the compiled _host"):
            assert ordkernels.scores.mae([1.0], [2.0]) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert ordkernels.scores.mae([1.0], [3.0]) == 2
    finally:
        if hidden is None:
            del sys.modules["ordkernels._host"]
        else:
            sys.modules["ordkernels._host"] = hidden
        _backend.host_module.cache_clear(), _backend.host_reason.cache_clear()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_level_makes_its_row_nan_also_in_a_step_to_1(backend):
    x = torch.ones(2, 3)
    t = torch.tensor([0.5, torch.nan])
    with ordkernels.use_backend(backend):
        steps = ops.reverse_step(x, x, t, 1.0)[0], ops.guided_posterior_step(x, x, x, x, t, 1.0, gamma_cp=1.0, gamma_tf=1.0)[0]
    for x_s in steps:
        assert x_s.isnan().all(1).tolist() == [False, True]


def test_gradients_of_levels_at_1():
    """Without noise the slope of alpha_bar_s does not depend on that of the variance, which alpha_bar_t = 1 makes infinite."""
    x, v = torch.tensor([[0.5]]), torch.tensor([[-0.25]])
    s = torch.tensor([0.25], requires_grad=True)
    ops.reverse_step(x, v, 1.0, s)[0].sum().backward()
    torch.testing.assert_close(s.grad, torch.tensor([0.5 / 0.25**0.5 * 0.5 + 0.5 / 0.75**0.5 * 0.25]))
    t = torch.ones(1, requires_grad=True)
    ops.guided_posterior_step(x, v, v, v, t, 1.0, gamma_cp=0.5, gamma_tf=0.5)[0].sum().backward()
    assert t.grad.item() == 0


def test_a_level_that_is_not_used_has_no_gradient_however_large_the_rows():
    x = torch.full((1, 40), 3e38)
    a = torch.tensor([0.5], requires_grad=True)
    ops.predict_x0(x, x, a, prediction="x0").sum().backward()
    assert a.grad.item() == 0

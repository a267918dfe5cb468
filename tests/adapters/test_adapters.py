"""Adapters: Pyro transforms and a diffusers scheduler made of this package's parts."""

import copy
import importlib
import pickle
import subprocess
import sys

import pytest
import torch
from torch.distributions import constraints

from ordkernels import nn, ops


def adapter(name, package):
    pytest.importorskip(package, reason=f"{package} is not installed")
    return importlib.import_module(f"ordkernels.adapters.{name}")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def check_transform(t, x):
    assert t.domain == t.codomain == constraints.real_vector
    y = t(x)
    jacobian = torch.autograd.functional.jacobian(lambda z: t(z), x)
    rows = x[..., 0].numel()
    D = x.shape[-1]
    blocks = jacobian.reshape(rows, D, rows, D).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    log_det = t.log_abs_det_jacobian(x, y)
    torch.testing.assert_close(torch.linalg.slogdet(blocks)[1].view(x.shape[:-1]), log_det, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(t.inv(y.clone()), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(t.log_abs_det_jacobian(t.inv(y.clone()), y), log_det, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)], ids=str)
def test_pyro_planar_flow(shape):
    flow = adapter("pyro", "pyro").PlanarFlow(3).double()
    x = torch.randn(shape, dtype=torch.float64)
    check_transform(flow, x)
    assert sorted(flow.state_dict()) == ["flow.b", "flow.u", "flow.w"]
    torch.testing.assert_close(flow(x.view(-1, 3)), nn.PlanarFlow.forward(flow.flow, x.view(-1, 3))[0])
    with torch.no_grad():
        flow.clear_cache()
        for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
            torch.testing.assert_close(twin(x), flow(x))


def test_pyro_densities_train():
    pyro = adapter("pyro", "pyro")
    dist = importlib.import_module("pyro.distributions")
    base = dist.Normal(torch.zeros(64, 2), torch.ones(64, 2)).to_event(1)
    flow, conditional = pyro.PlanarFlow(2), pyro.ConditionalPlanarFlow(2, 3)
    x, h = 2 * torch.randn(64, 2) + 1, torch.randn(64, 3)
    optimizer = torch.optim.Adam([*flow.parameters(), *conditional.parameters()], lr=0.05)
    losses = []
    for _ in range(40):
        density = dist.ConditionalTransformedDistribution(base, [flow, conditional]).condition(h)
        loss = -density.log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        flow.clear_cache()
    assert losses[-1] < losses[0] - 0.3
    sample = density.rsample()
    scored = density.log_prob(sample)
    torch.testing.assert_close(density.log_prob(sample.clone()), scored, rtol=1e-3, atol=1e-3)


def test_pyro_conditional_planar_flow():
    flow = adapter("pyro", "pyro").ConditionalPlanarFlow(3, context_width=2, layers=2).double()
    context, x = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    check_transform(flow.condition(context), x)
    check_transform(flow.condition(context[0]), x)
    expected = ops.conditional_planar_flow(x, context, flow.flow.weight, flow.flow.bias)
    torch.testing.assert_close(flow.condition(context)(x), expected[0])
    assert flow.condition(context)(torch.randn(7, 5, 3, dtype=torch.float64)).shape == (7, 5, 3)
    back = flow.inv.condition(context)(expected[0])
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    assert not adapter("pyro", "pyro").ConditionalPlanarFlow(3, 2, constrained=False).bijective


def test_row_scheduler(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    RowScheduler = adapter("diffusers", "diffusers").RowScheduler
    config = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "clip_sample_range": 3.0}
    ours, theirs = RowScheduler(**config), diffusers.DDIMScheduler(**config)
    for s in (ours, theirs):
        s.set_timesteps(8)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    x, output, noise = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    for t in ours.timesteps:
        for eta in (0.0, 1.0):
            a, b = (s.step(output, t, x, eta=eta, variance_noise=noise) for s in (ours, theirs))
            known = b.prev_sample.isfinite()  # at alpha_bar 0 a rounding decides whether theirs is NaN
            assert bool(a.prev_sample.isfinite().all())
            torch.testing.assert_close(a.prev_sample[known], b.prev_sample[known], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(a.pred_original_sample, b.pred_original_sample, rtol=1e-5, atol=1e-5)
    t = torch.tensor([999, 500, 3])
    torch.testing.assert_close(ours.add_noise(x, noise, t), theirs.add_noise(x, noise, t), rtol=1e-5, atol=1e-5)
    wide = ours.step(output.double(), 500, x.double()).prev_sample  # coefficients rounded to fp32: the original's step
    assert torch.equal(wide, theirs.step(output.double(), 500, x.double()).prev_sample)
    ours.save_pretrained(tmp_path)
    loaded = RowScheduler.from_pretrained(tmp_path)
    assert type(loaded) is RowScheduler
    assert loaded.config.clip_sample_range == 3.0
    assert type(RowScheduler.from_config(theirs.config)) is RowScheduler
    assert isinstance(diffusers.DPMSolverMultistepScheduler.from_config(ours.config), diffusers.DPMSolverMultistepScheduler)
    assert diffusers.DPMSolverMultistepScheduler in ours.compatibles


def test_row_scheduler_by_rows():
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    s = adapter("diffusers", "diffusers").RowScheduler(clip_sample=False)
    s.set_timesteps(10)
    x, output, ids, t = torch.randn(6, 5), torch.randn(6, 5), torch.arange(100, 106), torch.tensor([900, 500, 500, 100, 0, 300])
    whole = s.step(output, t, x, eta=0.5, seed=4, row_ids=ids)
    for i in range(6):
        one = s.step(output[i : i + 1], t[i], x[i : i + 1], eta=0.5, seed=4, row_ids=ids[i : i + 1])
        torch.testing.assert_close(whole.prev_sample[i : i + 1], one.prev_sample)
        torch.testing.assert_close(whole.pred_original_sample[i : i + 1], one.pred_original_sample)


@pytest.mark.parametrize("name", ["pyro", "diffusers"])
def test_what_is_missing_is_named(name):
    code = f"import sys; sys.modules[{name!r}] = None\ntry:\n    import ordkernels.adapters.{name}\nexcept ImportError as e: print(e)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert f"ordkernels.adapters.{name}: expected {name}, got" in out
    assert "pip install" in out

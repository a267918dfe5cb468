"""DiffoR: its losses restated, chains that equal their loop, row-keyed draws, every ablation, errors."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ordkernels import ops, rng
from ordkernels.models import DiffoR, fit
from ordkernels.models._noise import LossNoise
from ordkernels.reference.denoise_chain import denoise_chain
from ordkernels.samplers import DiffoRSampler

SMALL = {"dense_width": 3, "latent": 16, "hidden": 8, "heads": 4, "T": 20, "denoiser_hidden": 16, "heads_hidden": 8, "dropout": 0.0}
TRANSFORMER = {"denoiser": "transformer"}  # the paper's
ABLATIONS = {
    "(a)": TRANSFORMER,
    "(b) flow matching": {**TRANSFORMER, "process": "flow_matching"},
    "(c) MLP": {},
    "(d) without MIA": {**TRANSFORMER, "increments": False},
    "(e) without DDP": {**TRANSFORMER, "aligned": False},
    "(f) without both": {**TRANSFORMER, "increments": False, "aligned": False},
    "flow matching and MLP": {"process": "flow_matching"},
    "one head": {**TRANSFORMER, "heads": 1},
    "twelve heads": {**TRANSFORMER, "heads": 12, "latent": 24},
    "quantile widths": {**TRANSFORMER, "widths": "quantile"},
    "cosine, log spacing": {**TRANSFORMER, "schedule": "cosine", "spacing": "log"},
    "eps": {**TRANSFORMER, "prediction": "eps"},
    "x0": {"prediction": "x0"},
    "DDPM": {"eta": 1.0},
    "DDPM, Transformer": {**TRANSFORMER, "eta": 1.0},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def table(N: int = 400) -> dict[str, torch.Tensor]:
    """A long-tailed, zero-inflated target with whole-number values."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(N, 3, generator=g)
    y = torch.expm1(1.5 * x[:, 0] + 0.3 * torch.randn(N, generator=g)).clamp(min=0).round()
    return {"dense": x, "y": y}


def model(**options) -> DiffoR:
    m = DiffoR(**{**SMALL, **options})
    m.prepare(table())
    m.target.shares.zero_()  # untrained, it would draw little but the zero that half of the rows share
    return m.eval()


# ------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("options", [{}, {"widths": "quantile"}, {"heads": 1}, {"increments": False}], ids=str)
def test_latent_has_the_norm_of_its_noise_and_is_detached_in_the_noise_loss(options):
    m, t = model(**options), table()
    H = m.heads.heads
    v = ops.encode_increments(m.target(t["y"]) * H, m.heads.widths)
    assert torch.allclose(m.target.inverse(v.sum(dim=1) / H), t["y"], atol=1e-3)  # increments add up to the target
    with torch.no_grad():
        m.latent_map.mul_(7.0)  # the scale of A does not matter
    z0 = m._latent(v)
    assert float(z0.detach().square().sum(dim=1).mean()) == pytest.approx(16, rel=1e-3)
    context = m.encoder(t)
    m._noise_loss(z0.detach(), context, LossNoise({}, z0)).backward()
    assert m.latent_map.grad is None
    m.zero_grad()
    m._increment_loss(v, z0, m.encoder(t), LossNoise({}, z0)).backward()
    assert m.latent_map.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "options",
    [{}, {"denoiser": "transformer"}, {"prediction": "eps"}, {"aligned": False}, {"process": "flow_matching"}],
    ids=str,
)
def test_increment_loss_restated(options):
    m, t = model(**options), table(7)
    context, K = m.encoder(t), len(m.aligned)
    v = ops.encode_increments(m.target(t["y"]) * 4, m.heads.widths)
    z0 = m._latent(v)
    torch.manual_seed(5)
    got = m._increment_loss(v, z0, context, LossNoise({}, z0))
    torch.manual_seed(5)
    noise = LossNoise({}, z0).normal(7, K, 16)
    p = m.heads.state_dict()
    total = 0.0
    for k in range(4):
        j = min(k, K - 1)
        tau = m.aligned[j]
        ab = float(m.schedule.alpha_bar[tau])
        if m.process == "flow_matching":
            z = (1 - tau / 20) * z0 + tau / 20 * noise[:, j]
            x0 = z - tau / 20 * m.denoiser(z, tau, context)
        else:
            z = ab**0.5 * z0 + (1 - ab) ** 0.5 * noise[:, j]
            out = m.denoiser(z, tau, context)
            eps_form, v_form = (z - (1 - ab) ** 0.5 * out) / ab**0.5, ab**0.5 * z - (1 - ab) ** 0.5 * out
            x0 = v_form if m.prediction == "v" else eps_form.clamp(-5, 5)
        g = nn.functional.silu(x0 @ p["weight"][k] + p["bias"][k]) @ p["out_weight"][k] + p["out_bias"][k]
        total += (v[:, k] - p["widths"][k] * torch.sigmoid(g)).square().mean() / 4
    assert torch.allclose(got, total, rtol=1e-4)


def test_noise_loss_of_the_right_answer_is_zero():
    """A denoiser that returns the exact z_0 has no error, whatever it predicts."""
    for options in ({"prediction": p} for p in ("eps", "x0", "v")):
        m = model(**options)
        z0 = torch.randn(50, 16)

        def oracle(x, t, c, m=m, z0=z0):
            ab = m.alpha_bar[t][:, None]
            eps = (x - ab.sqrt() * z0) / (1 - ab).sqrt()
            return {"eps": eps, "x0": z0, "v": ab.sqrt() * eps - (1 - ab).sqrt() * z0}[m.prediction]

        del m.denoiser
        m.denoiser = oracle
        assert float(m._noise_loss(z0, z0, LossNoise({}, z0))) < 1e-6
    m = model(process="flow_matching")
    del m.denoiser
    m.denoiser = lambda x, t, c: (x - z0) / (t / 20)[:, None]
    assert float(m._noise_loss(z0, z0, LossNoise({}, z0))) < 1e-6


@pytest.mark.parametrize("space", ["mapped", "linear", "both"])
def test_crps_loss_restated(space):
    m, t = model(crps_space=space, crps_draws=3), table(7)
    context = m.encoder(t)
    torch.manual_seed(5)
    got = m._crps_loss(t, context, LossNoise({}, torch.zeros(())))
    torch.manual_seed(5)
    noise, u = LossNoise({}, torch.zeros(())).normal(7, 3, 16), []
    for j in range(3):
        states = denoise_chain(noise[:, j], context, m.denoiser, m.alpha_bar, m.aligned, m.aligned)[1]
        u.append(m.heads(states).sum(dim=1) / 4)
    u = torch.stack(u, dim=1)
    total = 0.0
    for draws, y, used in ((u, m.target(t["y"]), space != "linear"), (m.target.inverse(u) / m.scale, t["y"] / m.scale, space != "mapped")):
        pairs = (draws[:, :, None] - draws[:, None]).abs().sum(dim=(1, 2)) / (3 * 2)
        total = total + used * ((draws - y[:, None]).abs().mean(dim=1) - pairs / 2).mean()
    assert float(got.detach()) == pytest.approx(float(total.detach()), rel=1e-4)
    got.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in m.denoiser.parameters())


def test_paper_loss_has_no_crps():
    parts = model(**DiffoR.paper_loss()).loss(table(7))
    assert set(parts) == {"loss", "noise", "increment"}
    assert parts["loss"].item() == pytest.approx(float(parts["noise"] + 10 * parts["increment"]), rel=1e-5)


def test_last_step_reads_every_head_at_the_chains_end():
    m = model(**DiffoR.last_step())
    assert m.aligned == [1]
    assert len(model().aligned) > 1
    x = {k: v for k, v in table(20).items() if k != "y"}
    assert m.read_out(torch.randn(20, 1, m.noise_width)).shape == (20,)  # one state a row
    assert bool(m.sample(x, 8, seed=1).isfinite().all())


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_trains_and_samples(name):
    m, t = model(**ABLATIONS[name]).train(), table(120)
    parts = m.loss(t)
    weight = m.loss_config.increment_weight
    assert parts["loss"].item() == pytest.approx(float(parts["noise"] + weight * parts["increment"] + 10 * parts["crps"]), rel=1e-5)
    parts["loss"].backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in m.parameters())
    draws = m.sample(t, 3)
    assert draws.shape == (120, 3)
    known = table()["y"]  # what the model was prepared on
    assert bool((draws >= known.min()).all())
    assert bool((draws <= known.max()).all())
    assert draws[:, 0].ne(draws[:, 1]).any()


# ------------------------------------------------------------------------------------------------- sampling


class Wrapped(nn.Module):
    """The same denoiser as a user's own module, which runs step by step."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x, t, cond):
        return self.inner(x, t, cond)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [[20, 18, 13, 8, 5, 3], 7, 20])
def test_one_call_equals_step_by_step_equals_the_definition(eta, steps):
    m = model(eta=eta)
    m.aligned = [18, 13, 8, 3]
    x, c, ids = torch.randn(9, 2, 16), torch.randn(9, m.encoder.width), torch.arange(100, 109)
    with torch.inference_mode():
        fused = DiffoRSampler(m, steps=steps)
        one = fused.sample_fused(x, c, seed=3, row_ids=ids)
        other = copy.deepcopy(m)
        other.denoiser = Wrapped(m.denoiser)
        loop = DiffoRSampler(other, steps=steps).sample_fused(x, c, seed=3, row_ids=ids)
    assert one.shape == (9, 2, 4, 16)
    for j in range(2):
        definition = denoise_chain(
            x[:, j], c, m.denoiser, m.alpha_bar, fused.steps, m.aligned, eta=eta, noise=lambda i, t, j=j: rng.normal(3, ids, t, 16, draw=j)
        )[1]
        assert torch.allclose(one[:, j], definition, atol=1e-4)
        assert torch.allclose(loop[:, j], definition, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"denoiser": "transformer"}, {"eta": 1.0}, {"process": "flow_matching"}], ids=str)
def test_draws_belong_to_the_row(options):
    m, x = model(**options), table(30)
    ids = torch.randperm(1000)[:30]
    whole = m.sample(x, 5, seed=2, row_ids=ids)
    parts = [m.sample({k: v[i : i + 7] for k, v in x.items()}, 5, seed=2, row_ids=ids[i : i + 7]) for i in range(0, 30, 7)]
    assert torch.allclose(torch.cat(parts), whole, rtol=1e-3, atol=1e-3)
    small = DiffoRSampler(m, max_rows=1).sample(x, 5, seed=2, row_ids=ids)
    assert torch.allclose(small, whole, rtol=1e-3, atol=1e-3)
    more = m.sample(x, 8, seed=2, row_ids=ids)  # the first five draws do not depend on how many are asked for
    assert torch.allclose(more[:, :5], whole, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(m.sample(x, 5, seed=3, row_ids=ids), whole)
    assert m.sample({k: v[:0] for k, v in x.items()}, 5).shape == (0, 5)


def test_predict_and_interval_are_statistics_of_the_draws():
    m, x = model(), table(40)
    draws = m.sample(x, 33, seed=1)
    assert torch.allclose(m.predict(x, 33, seed=1), draws.median(dim=1).values)
    assert torch.allclose(m.predict(x, 33, seed=1, statistic="mean"), draws.mean(dim=1))
    ends = np.quantile(draws.numpy(), [0.25, 0.75], axis=1, method="weibull").T  # order statistic i of n is at level i / (n + 1)
    np.testing.assert_allclose(m.interval(x, 0.5, 33, seed=1), ends, rtol=1e-4, atol=1e-4)


def test_discrete_draws_are_labels():
    m, x = model(discrete=True), table()
    assert set(m.sample(x, 4).flatten().tolist()) <= set(x["y"].tolist())


def test_capacity_bounds_every_draw():
    x = table()
    x["capacity"] = x["y"].quantile(0.8).expand(400).clone()
    x["capacity"][::2] = 0.0
    m = model(capacity=True)
    unbounded = model().sample(x, 4)
    draws = m.sample(x, 4)
    assert bool((draws <= x["capacity"][:, None]).all())
    assert bool((unbounded > x["capacity"][:, None]).any())
    assert bool((draws[1::2] > 0).any())
    m.train()
    parts = m.loss({**x, "y": x["y"].minimum(x["capacity"])})
    assert parts["crps"].isfinite()
    loose = m.loss({**x, "y": x["y"].minimum(x["capacity"]), "capacity": torch.full((400,), float(x["y"].max()))})
    assert float(loose["crps"]) > float(parts["crps"])  # its draws know no bound
    with pytest.raises(ValueError, match=r"capacity: expected shape \[400\], got \[3\]"):
        m.loss({**x, "capacity": torch.ones(3)})
    with pytest.raises(ValueError, match="batch: expected the key 'capacity'"):
        m.sample({"dense": x["dense"]}, 1)


@pytest.mark.parametrize("denoiser", ["mlp", "transformer"])
def test_draws_under_autocast_are_close(denoiser):
    m, x = model(denoiser=denoiser), table(20)
    exact = m.target(m.sample(x, 4))
    with torch.autocast("cpu", torch.bfloat16):
        draws = m.sample(x, 4)
    assert torch.allclose(m.target(draws.float()), exact, atol=0.05)


def test_saved_weights_give_the_same_draws():
    m, x = model(widths="quantile", discrete=True), table(20)
    other = DiffoR(**{**SMALL, "widths": "quantile", "discrete": True})
    other.load_state_dict(m.state_dict())
    assert torch.equal(other.sample(x, 3), m.sample(x, 3))
    other.train().loss(table(8))  # a loaded model is prepared: one small batch must not refit its map of targets
    assert torch.equal(other.target.values, m.target.values)


@pytest.mark.slow
def test_it_learns():
    train = table(1500)
    m = DiffoR(**SMALL)
    fit(m, train, epochs=12, batch_size=128, lr=1e-2, progress=False)
    error = (m.predict(train, 16) - train["y"]).abs().mean()
    assert error < 0.5 * (train["y"].median() - train["y"]).abs().mean()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_loop_can_be_captured_in_a_cuda_graph():
    m = model(denoiser="transformer").cuda()
    x, c = torch.randn(32, 2, 16, device="cuda"), torch.randn(32, m.encoder.width, device="cuda")
    with torch.inference_mode():
        sampler = DiffoRSampler(m)
        sampler.sample_fused(x, c)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = sampler.sample_fused(x, c)
        x.normal_()
        graph.replay()
        assert torch.allclose(captured, sampler.sample_fused(x, c), atol=1e-5)


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"process": "ode"}, "process: expected 'diffusion' or 'flow_matching', got 'ode'"),
        ({"prediction": "velocity"}, "prediction: expected 'eps', 'x0' or 'v'"),
        ({"widths": "log"}, "widths: expected 'uniform' or 'quantile'"),
        ({"crps_space": "log"}, "crps_space: expected 'both', 'linear' or 'mapped', got 'log'"),
        ({"crps_weight": -1.0}, "crps_weight: expected at least 0, got -1"),
        ({"crps_draws": 1}, "crps_draws: expected at least 2"),
        ({"denoiser": "unet"}, "denoiser: expected 'transformer', 'mlp' or a module, got 'unet'"),
        ({"schedule": "quadratic"}, "schedule: expected 'linear', 'cosine' or a NoiseSchedule"),
        ({"rho": 1.5}, r"rho: expected a share in \[0, 1\], got 1.5"),
        ({"increment_weight": -1}, "increment_weight: expected at least 0"),
        ({"heads": 0}, "heads: expected a whole number of at least 1, got 0"),
        ({"heads": 5, "denoiser": "transformer"}, "width: expected a multiple of tokens = 5, got 16"),
        ({"T": 3}, "T"),
    ],
    ids=str,
)
def test_constructor_errors(options, text):
    with pytest.raises(ValueError, match=text):
        DiffoR(**{**SMALL, **options})


def test_sampler_and_batch_errors():
    m, x = model(), table(4)
    for options, text in (
        ({"steps": [20, 1]}, "steps: expected to contain the aligned timesteps"),
        ({"steps": 0}, r"steps: expected a number in \[1, 20\]"),
        ({"eta": 2.0}, r"eta: expected a number in \[0, 1\], got 2.0"),
    ):
        with pytest.raises(ValueError, match=text):
            DiffoRSampler(m, **options)
    with pytest.raises(ValueError, match="eta: expected 0, flow matching has no noise"):
        DiffoRSampler(model(process="flow_matching"), eta=1.0)
    with pytest.raises(ValueError, match="batch: expected the key 'dense', got y"):
        m.sample({"y": x["y"]}, 1)
    with pytest.raises(ValueError, match=r"dense: expected shape \[B, 3\], got \[4, 2\]"):
        m.sample({"dense": x["dense"][:, :2]}, 1)
    with pytest.raises(ValueError, match="y: expected finite values of at least 0, got -1"):
        m.loss({"dense": x["dense"], "y": torch.tensor([0.0, 1.0, -1.0, 2.0])})
    with pytest.raises(ValueError, match="batch: expected the key 'y', got dense"):
        m.loss({"dense": x["dense"]})


@pytest.mark.parametrize("rows", ["one row", "all zero", "one class"])
def test_a_first_batch_of_equal_targets_gives_a_finite_loss(rows):
    batch = {name: v[:1] for name, v in table().items()} if rows == "one row" else table()
    if rows != "one row":
        batch["y"] = torch.full_like(batch["y"], 0.0 if rows == "all zero" else 3.0)
    assert all(torch.isfinite(part) for part in model().loss(batch).values())

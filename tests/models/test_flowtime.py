"""FlowTime: its loss against a plain restatement, learning, row-keyed sampling, ablations, errors."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ordkernels import ops, rng
from ordkernels.models import FlowTime, fit
from ordkernels.samplers import FlowSampler

N, USERS, ITEMS, F, L = 400, 30, 20, 6, 20


def data(n: int = N, seed: int = 0) -> dict[str, Tensor]:
    """Targets that depend on a dense feature and on the user, with matching history quantiles; some rows without."""
    g = torch.Generator().manual_seed(seed)
    user, item = torch.randint(USERS, (n,), generator=g), torch.randint(ITEMS, (n,), generator=g)
    dense = torch.randn(n, F, generator=g)
    centre = 1 + 0.8 * dense[:, 0] + 0.05 * user
    spread = torch.distributions.Normal(0.0, 0.6).icdf((torch.arange(L) + 0.5) / L)
    return {
        "user": user,
        "item": item,
        "dense": dense,
        "q_user": torch.exp(1 + 0.05 * user[:, None] + spread),
        "q_item": torch.exp(1.7 + spread).repeat(n, 1),
        "has_user": (torch.rand(n, generator=g) > 0.3).float(),
        "has_item": (torch.rand(n, generator=g) > 0.1).float(),
        "y": torch.exp(centre + 0.5 * torch.randn(n, generator=g)) * (torch.rand(n, generator=g) > 0.1),
    }


def small(**changes) -> FlowTime:
    torch.manual_seed(0)
    return FlowTime(USERS, ITEMS, F, **{"latent": 8, "hidden": 16, "pattern_width": 8, **changes})


@pytest.fixture(scope="module")
def trained() -> FlowTime:
    model = small()
    fit(model, data(), epochs=10, batch_size=50, lr=1e-2, progress=False)
    return model


def without_y(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in batch.items() if k != "y"}


# ---------------------------------------------------------------------------------------------------- loss


def test_loss_is_the_stated_sum_and_parts_are_the_stated_scores() -> None:
    """Restate every term with plain formulas on the very draws that the model made, in eval mode (nothing dropped)."""
    model, batch = small(crps_weight=0.7, wdist_weight=0.3, huber_weight=0.9, kl_weight=0.02, lam=0.6).eval(), data(64)
    model.prepare(batch)
    seen = {}
    decode, posterior = model._log_value, model.posterior.forward
    model._log_value = lambda z, c: seen.setdefault("log", decode(z, c))  # type: ignore[method-assign]
    model.posterior.forward = lambda v: seen.setdefault("posterior", posterior(v))  # type: ignore[method-assign]
    got = model.loss(batch)
    mean, log_var = seen["posterior"].chunk(2, dim=1)
    y, unit, scale = batch["y"], model.unit, model.scale
    out = torch.expm1(seen["log"]) * unit / scale  # [B, 1 + L]
    e = (out[:, 0] - y / scale).abs()
    huber = torch.where(e < 1, e * e / 2, e - 0.5).mean()
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mean, (log_var / 2).exp()), normal(0.0, 1.0)).sum(1).mean()
    wdist = 0.0
    for b in range(64):
        draws = out[b, 1:].sort().values
        to = {s: (draws - batch[f"q_{s}"][b] / scale).abs().mean() for s in ("user", "item")}
        has = {s: bool(batch[f"has_{s}"][b]) for s in ("user", "item")}
        share = {(True, True): (0.6, 0.4), (True, False): (1, 0), (False, True): (0, 1), (False, False): (0, 0)}
        a, b_ = share[has["user"], has["item"]]
        wdist = wdist + (a * to["user"] + b_ * to["item"]) / 64
    crps = sum(
        ((d - t[:, None]).abs().mean(1) - (d[:, :, None] - d[:, None]).abs().sum((1, 2)) / (2 * L * (L - 1))).mean()
        for d, t in ((out[:, 1:], y / scale), (seen["log"][:, 1:], torch.log1p(y / unit)))
    )
    for name, want in {"huber": huber, "kl": kl, "wdist": wdist, "crps": crps}.items():
        torch.testing.assert_close(got[name], want.detach(), atol=1e-5, rtol=1e-4, msg=name)
    total = 0.9 * huber + 0.02 * kl + 0.3 * wdist + 0.7 * crps
    torch.testing.assert_close(got["loss"], total, atol=1e-5, rtol=1e-4)


def test_every_parameter_learns() -> None:
    model, batch = small(), data()
    model.train().loss(batch)["loss"].backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any()]
    assert not without


def test_training_lowers_the_loss_and_learns_the_distribution(trained: FlowTime) -> None:
    batch = data(300, seed=1)
    untrained = small()
    untrained.prepare(data())
    before, after = (float(ops.crps(m.sample(without_y(batch), 64), batch["y"]).mean()) for m in (untrained, trained))
    constant = batch["y"].median().expand(300)
    prediction = trained.predict(without_y(batch), n=64)
    assert after < 0.8 * before
    assert float((prediction - batch["y"]).abs().mean()) < 0.9 * float((constant - batch["y"]).abs().mean())
    assert ops.xauc(batch["y"], prediction).value > 0.7
    interval = trained.interval(without_y(batch), 0.8)
    inside = ((batch["y"] >= interval[:, 0]) & (batch["y"] <= interval[:, 1])).float().mean()
    assert 0.55 < float(inside) < 0.95


def test_fit_reports_falling_losses_and_repeats_itself_exactly() -> None:
    histories, weights = [], []
    for _ in range(2):
        model = small()
        state = torch.random.get_rng_state()
        histories.append(fit(model, data(), epochs=4, batch_size=64, lr=3e-3, seed=5, progress=False))
        assert torch.equal(torch.random.get_rng_state(), state)  # the caller's noise is untouched
        weights.append(model.state_dict())
    assert histories[0] == histories[1]
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))
    assert histories[0][-1]["loss"] < histories[0][0]["loss"]
    other = small()
    assert fit(other, data(), epochs=1, batch_size=64, seed=6, progress=False)[0] != histories[0][0]


def test_a_loop_of_the_users_own_needs_no_preparation() -> None:
    model, batch = small(), data()
    model.train().loss(batch)
    assert float(model.scale) == pytest.approx(float(batch["y"].double().std(correction=0)), rel=1e-5)
    again = small()
    again.load_state_dict(model.state_dict())
    scaled = {**batch, "y": 10 * batch["y"]}
    again.train().loss(scaled)
    assert torch.equal(again.scale, model.scale)  # a loaded model has its own scale already


# ---------------------------------------------------------------------------------------------------- sampling


def test_a_rows_draws_do_not_depend_on_the_split(trained: FlowTime) -> None:
    x, ids = without_y(data(50, seed=2)), torch.arange(50) * 7 + 2**33
    whole = trained.sample(x, 5, seed=3, row_ids=ids)
    tiny = FlowSampler(trained, max_rows=1).sample(x, 5, seed=3, row_ids=ids)
    shuffle = torch.randperm(50)
    shuffled = trained.sample({k: v[shuffle] for k, v in x.items()}, 5, seed=3, row_ids=ids[shuffle])
    torch.testing.assert_close(tiny, whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shuffled, whole[shuffle], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(trained.sample(x, 5, seed=4, row_ids=ids), whole, rtol=0.05)


def test_the_noise_is_the_documented_one(trained: FlowTime) -> None:
    x, ids = without_y(data(4)), torch.tensor([3, 1, 4, 2**40])
    D = trained.noise_width

    def generated(noise: Tensor) -> Tensor:
        with torch.no_grad():
            return trained.eval().generate(trained.condition(x), noise)

    independent = rng.normal(9, ids, step=0, width=6 * D).view(4, 6, D)
    got = FlowSampler(trained, antithetic=False).sample(x, 6, seed=9, row_ids=ids)
    torch.testing.assert_close(got, generated(independent), atol=1e-5, rtol=1e-5)
    z = rng.normal(9, ids, step=0, width=3 * D).view(4, 3, D)
    pairs = torch.stack((z[:, 0], -z[:, 0], z[:, 1], -z[:, 1], z[:, 2]), dim=1)
    torch.testing.assert_close(trained.sample(x, 5, seed=9, row_ids=ids), generated(pairs), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(trained.sample(x, 2, seed=9, row_ids=ids), generated(pairs[:, :2]), atol=1e-5, rtol=1e-5)


def test_mirrored_draws_have_steadier_medians(trained: FlowTime) -> None:
    x = without_y(data(100, seed=4))
    independent = FlowSampler(trained, antithetic=False)
    expected = independent.predict(x, 2048, seed=3)
    error, mirrored = (float((s.predict(x, 16, seed=5) - expected).abs().mean()) for s in (independent, FlowSampler(trained)))
    assert mirrored < 0.8 * error


def test_sampling_ignores_dropout_restores_the_mode_and_leaves_no_graph(trained: FlowTime) -> None:
    x = without_y(data(20))
    calm = trained.eval().sample(x, 3)
    trained.train()
    torch.testing.assert_close(trained.sample(x, 3), calm)
    assert trained.training
    assert not calm.requires_grad
    trained.eval()


def test_predict_and_interval_are_statistics_of_the_draws(trained: FlowTime) -> None:
    x = without_y(data(20, seed=3))
    draws = trained.sample(x, 33, seed=1)
    assert float(draws.min()) >= 0
    torch.testing.assert_close(trained.predict(x, 33, seed=1), draws.median(dim=1).values)
    torch.testing.assert_close(trained.predict(x, 33, seed=1, statistic="mean"), draws.mean(dim=1))
    ends = np.quantile(draws.numpy(), [0.1, 0.9], axis=1, method="weibull").T  # order statistic i of n is at level i / (n + 1)
    np.testing.assert_allclose(trained.interval(x, 0.8, n=33, seed=1), ends, rtol=1e-4, atol=1e-4)


def test_no_rows_give_no_draws(trained: FlowTime) -> None:
    x = without_y(data(0))
    assert trained.sample(x, 3).shape == (0, 3)
    assert trained.predict(x).shape == (0,)
    assert trained.interval(x, 0.5).shape == (0, 2)


def test_quantiles_of_an_absent_history_are_ignored(trained: FlowTime) -> None:
    x = without_y(data(20))
    x["has_user"] = torch.zeros(20)
    changed = {**x, "q_user": x["q_user"] * 100}
    assert torch.equal(trained.sample(x, 3), trained.sample(changed, 3))
    x["has_user"] = changed["has_user"] = torch.ones(20)
    assert not torch.equal(trained.sample(x, 3), trained.sample(changed, 3))


# ---------------------------------------------------------------------------------------------------- ablations


@pytest.mark.parametrize(
    "changes",
    [
        {"prior": "ddpm"},
        {"prior": "flow_matching"},
        {"prior": "none"},
        {"user_history": False},
        {"item_history": False},
        {"prior": "none", "user_history": False, "item_history": False},
        {"encoder": "mlp"},
        {"layers": 1},
        {"layers": 8},
        {"lam": 0.0},
        {"lam": 1.0},
        {"constrained": "smooth"},
        {"constrained": False},
        {"crps_space": "log"},
        {"crps_space": "linear"},
        {"decoder_patterns": False},
        FlowTime.paper_loss(),
    ],
    ids=str,
)
def test_every_ablation_trains_and_samples(changes) -> None:
    model = small(**changes)
    history = fit(model, data(), epochs=5, batch_size=80, lr=5e-3, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]
    x = without_y(data(10))
    draws = model.sample(x, 8)
    assert torch.isfinite(draws).all()
    assert (draws >= 0).all()
    assert float(draws.std(dim=1).min()) > 0


def test_history_flags_take_the_history_away() -> None:
    x = without_y(data(20))
    for side in ("user", "item"):
        changed = {**x, f"q_{side}": x[f"q_{side}"] * 3, f"has_{side}": 1 - x[f"has_{side}"]}
        blind, sighted = small(**{f"{side}_history": False}), small()
        blind.prepare(data())
        sighted.prepare(data())
        assert torch.equal(blind.sample(x, 3), blind.sample(changed, 3))
        assert not torch.equal(sighted.sample(x, 3), sighted.sample(changed, 3))
    both_off = small(user_history=False, item_history=False).loss(data())
    assert float(both_off["wdist"]) == 0


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": torch.full((4,), math.nan)}, r"y: expected finite values of at least 0, got nan at row 0"),
        ({"y": torch.tensor([1.0, 2.0, -3.0, 1.0])}, r"y: expected finite values of at least 0, got -3.0 at row 2"),
        ({"y": torch.tensor([1.0, math.inf, 3.0, 1.0])}, r"got inf at row 1"),
        ({"y": torch.ones(4, 1)}, r"y: expected shape \[4\], got \[4, 1\]"),
        ({"q_user": torch.ones(4, 19)}, r"q_user: expected shape \[4, 20\], got \[4, 19\]"),
        ({"dense": torch.ones(3, F)}, r"dense: expected shape \[4, 6\], got \[3, 6\]"),
        ({"has_item": None}, r"batch: expected the key 'has_item'"),
    ],
)
def test_malformed_batches_are_named(changes, message) -> None:
    batch = {k: v for k, v in {**data(4), **changes}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        small().loss(batch)


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (torch.Tensor.numpy, "expected a torch.Tensor, got ndarray"),
        (torch.Tensor.to_sparse, "expected a dense tensor, got torch.sparse_coo"),
        (lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8), "expected a dense tensor, got a quantized one"),
    ],
)
@pytest.mark.parametrize("name", ["dense", "user", "has_item"])
def test_what_is_no_dense_tensor_is_named(name, make, got) -> None:
    batch = data(4)
    with pytest.raises(TypeError, match=f"^{name}: {got}"):
        small().loss({**batch, name: make(batch[name])})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.sample(x, 0), "n: expected 1 to 16777216, got 0"),
        (lambda m, x: m.interval(x, 1.0), "level: expected a share strictly between 0 and 1"),
        (lambda m, x: m.predict(x, statistic="mode"), "statistic"),
        (lambda m, x: m.sample(x, 2, row_ids=torch.arange(3)), r"row_ids: expected shape \[B\] = \[4\], got \[3\]"),
        (lambda m, x: m.sample({}, 2), "x: expected a dict of tensors"),
        (lambda m, x: small(lam=1.5), "lam: expected a share in"),
        (lambda m, x: small(prior="gan"), "prior: expected 'flow'"),
        (lambda m, x: small(layers=0), "layers"),
        (lambda m, x: small(encoder="rnn"), "encoder: expected 'residual', 'transformer' or 'mlp'"),
        (lambda m, x: small(dropout=1.0), "dropout: expected a probability"),
        (lambda m, x: FlowSampler(m, max_rows=0), "max_rows"),
        (lambda m, x: fit(m, data(4), epochs=0), "epochs: expected at least 1, got 0"),
        (lambda m, x: fit(m, data(4), average=1.0), "average"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(small(), without_y(data(4)))


@pytest.mark.parametrize(("name", "id_", "error", "text"), [
    ("user", 10**6, ValueError, r"user: expected ids in \[0, \d+\], got 1000000 at row 3"),
    ("item", -1, ValueError, r"item: expected ids in \[0, \d+\], got -1 at row 3"),
])  # fmt: skip
def test_ids_out_of_range_are_named(name, id_, error, text):
    model, batch = small(), data()
    model.prepare(batch)
    x = {key: v[:5].clone() for key, v in batch.items() if key != "y"}
    x[name][3] = id_
    with pytest.raises(error, match=text):
        model.sample(x, 2)


def test_inputs_of_another_dtype_are_named():
    model, batch = small(), data()
    model.prepare(batch)
    with pytest.raises(TypeError, match=r"q_user: expected the dtype of the model's parameters, torch.float32, got torch.float64"):
        model.loss({**batch, "q_user": batch["q_user"].double()})

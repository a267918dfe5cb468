"""CREAD, TPM, WLR, D2Q and EGMN: they learn, on ids and on plain tables; errors."""

import math

import pytest
import torch

from ordkernels import models, ops

MODELS = [models.CREAD, models.TPM, models.WLR, models.D2Q, models.EGMN]


@pytest.fixture(autouse=True)
def one_thread():
    """Of tensors this small, more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch(rows, seed=0, quantiles=20):
    """A KuaiRand batch whose target follows from its features, of which one is the duration."""
    g = torch.Generator().manual_seed(seed)
    dense = torch.randn(rows, 4, generator=g)
    duration = torch.randint(1, 5, (rows,), generator=g) * 15.0
    dense[:, 3] = duration / 15 - 2.5
    q = torch.rand(2, rows, quantiles, generator=g).mul(30).sort(dim=2).values
    return {
        "user": torch.randint(0, 7, (rows,), generator=g), "item": torch.randint(0, 5, (rows,), generator=g), "dense": dense,
        "q_user": q[0], "q_item": q[1], "has_user": torch.ones(rows), "has_item": torch.ones(rows), "duration": duration,
        "y": duration * dense[:, 0].sigmoid(),
    }  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_learns_a_small_set(kind):
    train = batch(128)
    torch.manual_seed(0)
    model = kind(0, 0, 4, hidden=32, dropout=0.0)
    history = models.fit(model, train, epochs=50, batch_size=64, lr=1e-2, weight_decay=0.0, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]
    p = model.predict(train)
    spread = ops.mae(train["y"], train["y"].median().expand(128))
    assert ops.mae(train["y"], p) < 0.4 * spread
    assert bool((p >= 0).all())
    again = kind(0, 0, 4, hidden=32)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.predict(train, batch_size=50), p)


@pytest.mark.parametrize("kind", MODELS)
def test_on_ids_and_histories(kind):
    train = batch(64)
    model = kind(7, 5, 4, hidden=8)
    assert set(model.batch_keys) <= set(train)
    history = models.fit(model, train, epochs=2, batch_size=32, progress=False)
    assert math.isfinite(history[-1]["loss"])
    assert bool((model.predict(train) >= 0).all())
    model.train()
    model.loss(train)["loss"].backward()
    assert all(p.grad is not None for p in model.head.parameters())


@pytest.mark.parametrize("kind", MODELS)
def test_plain_tables_one_row_no_rows_and_constants(kind):
    train = {k: v for k, v in batch(32).items() if k in ("dense", "duration", "y")} | {"y": torch.full((32,), 4.0)}
    model = kind(0, 0, 4, hidden=8)
    models.fit(model, train, epochs=1, batch_size=16, progress=False)
    assert model.predict({k: v[:1] for k, v in train.items()}).shape == (1,)
    assert model.predict({k: v[:0] for k, v in train.items()}).shape == (0,)
    assert bool(model.predict(train).isfinite().all())
    for name, value in model.loss(train).items():
        assert value.isfinite(), name


def test_wlr_with_finished_videos_as_clicks():
    train = batch(64)
    train["y"] = torch.where(torch.arange(64) % 4 == 0, train["duration"], 0.5)
    model = models.WLR(7, 5, 4, hidden=8, positives="finished")
    models.fit(model, train, epochs=1, batch_size=32, progress=False)
    assert "duration" in model.batch_keys
    assert model.predict({k: v for k, v in train.items() if k not in ("y", "duration")}).shape == (64,)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: models.CREAD(7, 5, 4, intervals=0), ValueError, "intervals"),
        (lambda: models.TPM(7, 5, 4, depth=0), ValueError, "depth"),
        (lambda: models.EGMN(7, 5, 4, components=0), ValueError, "components"),
        (lambda: models.WLR(7, 5, 4, positives="some"), ValueError, "positives"),
        (lambda: models.D2Q(7, 5, 4, objective="cubed"), ValueError, "objective"),
        (lambda: models.D2Q(7, 5, 4).loss({k: v for k, v in batch(2).items() if k != "duration"}), ValueError, "the key 'duration'"),
        (lambda: models.D2Q(7, 5, 4).predict(batch(2) | {"duration": -torch.ones(2)}), ValueError, "duration: expected finite"),
        (lambda: models.D2Q(7, 5, 4).predict(batch(2) | {"duration": torch.ones(3)}), ValueError, r"duration: expected shape \[2\]"),
        (lambda: models.TPM(7, 5, 4).loss(batch(2) | {"y": torch.tensor([1.0, math.nan])}), ValueError, "y: expected finite"),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()

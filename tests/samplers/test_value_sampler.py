"""GR's sampler: row-keyed draws, statistics weighted by the first token restated, greedy decoding, capacities."""

import numpy as np
import pytest
import torch

from ordkernels import ops
from ordkernels.models import GenerativeRegression
from ordkernels.reference.value_decode import EOS, FIRST, PAD, SOS
from ordkernels.samplers import ValueSampler
from ordkernels.samplers.value import _weighted_quantiles

SMALL = {"dense_width": 3, "hidden": 16, "attention_heads": 2, "ffn": 32, "layers": 1, "dropout": 0.0, "unit": 1.0}


def table(N: int = 120) -> dict[str, torch.Tensor]:
    """A long-tailed, zero-inflated target of whole numbers."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(N, 3, generator=g)
    y = torch.expm1(1.5 * x[:, 0] + 3 + 0.3 * torch.randn(N, generator=g)).clamp(min=0).round()
    y[::9] = 0.0
    return {"dense": x, "y": y}


def model(**options) -> GenerativeRegression:
    torch.manual_seed(0)
    m = GenerativeRegression(**{**SMALL, **options})
    m.prepare(table())
    return m.eval()


def test_draws_belong_to_the_row():
    m, x = model(), {"dense": table(30)["dense"]}
    ids = torch.randperm(1000)[:30]
    whole = m.sample(x, 5, seed=2, row_ids=ids)
    parts = [m.sample({k: v[i : i + 7] for k, v in x.items()}, 5, seed=2, row_ids=ids[i : i + 7]) for i in range(0, 30, 7)]
    # a rounding of the memory may flip a token whose choice was a near-tie: not one in these 150 draws
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(ValueSampler(m, max_rows=1).sample(x, 5, seed=2, row_ids=ids), whole)
    assert torch.equal(m.sample(x, 8, seed=2, row_ids=ids)[:, :5], whole)  # however many are asked for
    assert not torch.equal(m.sample(x, 5, seed=3, row_ids=ids), whole)
    assert m.sample({"dense": x["dense"][:0]}, 5).shape == (0, 5)
    assert m.predict({"dense": x["dense"][:0]}, statistic="greedy").shape == (0,)


def test_draws_follow_the_decoder():
    """The share of draws that end at once is the probability of EOS after SOS."""
    m = model()
    x = {"dense": table(2)["dense"]}
    m.longest_sequence = 4
    draws = m.sample(x, 3000, seed=1)
    allowed = torch.ones(len(m.token_values), dtype=torch.bool)
    allowed[[PAD, SOS]] = False
    with torch.no_grad():
        logits = m.decoder(torch.full((2, 1), SOS), m.encoder(x))[:, 0].masked_fill(~allowed, -torch.inf)
    assert torch.allclose((draws == 0).float().mean(1), logits.softmax(1)[:, EOS], atol=0.03)
    cold = ValueSampler(m, temperature=1e-4).sample(x, 3)  # next to no temperature: the likeliest tokens
    m.mixup, m.readout = None, "tokens"
    assert torch.allclose(cold, m.predict(x, statistic="greedy")[:, None].expand(2, 3))


def test_predict_and_interval_weigh_draws_by_their_first_token():
    m, x = model(), table(12)
    draws = m.sample(x, 9, seed=1)
    first = torch.stack([ops.value_decode(
        m.encoder(x), m.decoder, m.token_values, max_tokens=m.longest_sequence, temperature=1.0, monotone=True, seed=1,
        row_ids=torch.arange(12), draw_ids=torch.full((12,), j),
    ).tokens[:, 0] for j in range(9)], dim=1)  # fmt: skip
    with torch.no_grad():
        share = m.decoder(torch.full((12, 1), SOS), m.encoder(x))[:, 0]
    share[:, :EOS] = -torch.inf
    share = share.softmax(1)
    g = m.token_values.tolist()
    for r in range(12):
        seen = first[r].tolist()
        points = [(v, float(share[r, token]) / seen.count(token)) for v, token in zip(draws[r].tolist(), seen, strict=True)]
        for token in range(EOS, len(g)):
            if token not in seen:
                points.append(((g[token] + g[max(token - 1, FIRST)]) / 2 if token > EOS else 0.0, float(share[r, token])))
        assert float(m.predict(x, 9, seed=1, statistic="mean")[r]) == pytest.approx(sum(v * w for v, w in points), rel=1e-4)
        values, weights = (torch.tensor(p, dtype=torch.float64) for p in zip(*sorted(points, key=lambda p: p[0]), strict=True))
        at = weights.cumsum(0) - weights / 2
        for level, got in ((0.5, m.predict(x, 9, seed=1)[r]), (0.25, m.interval(x, 0.5, 9, seed=1)[r, 0])):
            want = np.interp((level * 10 - 0.5) / 9, at.numpy(), values.numpy())  # of 9 draws
            assert float(got) == pytest.approx(want, rel=1e-3, abs=1e-3)


def test_statistics_agree_with_those_of_many_plain_draws():
    m, x = model(), {"dense": table(3)["dense"]}
    m.longest_sequence = 4
    draws = m.sample(x, 4000, seed=5)
    assert torch.allclose(m.predict(x, 600, statistic="mean"), draws.mean(1), rtol=0.1)
    for level, got in ((0.5, m.predict(x, 600)), (0.8, m.interval(x, 0.6, 600)[:, 1])):
        share = (draws <= got[:, None]).float().mean(1), (draws < got[:, None]).float().mean(1)
        assert bool((share[0] > level - 0.06).all() and (share[1] < level + 0.06).all())


def test_weighted_quantiles():
    x = torch.randn(5, 31)
    levels = [0.0, 0.1, 0.5, 0.9, 1.0]
    want = torch.from_numpy(np.quantile(x.numpy(), levels, axis=1, method="weibull").T.copy()).float()
    assert torch.allclose(_weighted_quantiles(x, torch.full((5, 31), 1 / 31), levels, 31), want, atol=1e-5)
    padded = torch.cat((x, torch.full((5, 4), 77.0)), dim=1)  # points of no weight do not count
    weights = torch.cat((torch.full((5, 31), 1 / 31), torch.zeros(5, 4)), dim=1)
    assert torch.allclose(_weighted_quantiles(padded, weights, levels, 31), want, atol=1e-5)
    assert _weighted_quantiles(torch.tensor([[3.0, 9.0]]), torch.tensor([[1.0, 0.0]]), [0.2, 0.8], 1).tolist() == [[3.0, 3.0]]
    weights[2] = torch.nan
    out = _weighted_quantiles(padded, weights, levels, 31)
    assert out[2].isnan().all()
    assert torch.allclose(out[[0, 1, 3, 4]], want[[0, 1, 3, 4]], atol=1e-5)


@pytest.mark.parametrize("readout", ["windowed", "tokens"])
def test_greedy_is_the_decoding_of_the_model(readout):
    m, x = model(readout=readout), table(40)
    with torch.inference_mode():
        out = ops.value_decode(
            m.encoder(x),
            m.decoder,
            m.token_values,
            max_tokens=m.longest_sequence,
            window=20,
            mixup="window",
            readout=readout,
            monotone=True,
        )
    assert torch.equal(m.predict(x, statistic="greedy"), out.value)


def test_capacity_bounds_every_prediction():
    x = table()
    x["capacity"] = x["y"].quantile(0.7).expand(120).clone()
    x["capacity"][::2] = 0.0
    m = model(capacity=True)
    assert m.batch_keys == ("dense", "capacity", "y")
    draws, greedy = m.sample(x, 4), m.predict(x, statistic="greedy")
    assert bool((draws <= x["capacity"][:, None]).all())
    assert bool((greedy <= x["capacity"]).all())
    assert bool((draws[1::2] > 0).any())
    assert bool((model().sample(x, 4) > x["capacity"][:, None]).any())
    with pytest.raises(ValueError, match="batch: expected the key 'capacity'"):
        m.sample({"dense": x["dense"]}, 1)

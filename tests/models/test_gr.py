"""GR: curricula by their formulas, the loss restated, every ablation's effect, row-keyed draws, what a checkpoint holds, errors."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ordkernels import ops
from ordkernels.models import GenerativeRegression, fit
from ordkernels.models.gr import sampling_rate
from ordkernels.reference.value_decode import EOS, FIRST, PAD, SOS
from ordkernels.samplers import ValueSampler
from ordkernels.vocabulary import ValueVocabulary

SMALL = {"dense_width": 3, "hidden": 16, "attention_heads": 2, "ffn": 32, "layers": 1, "dropout": 0.0, "unit": 1.0}
ABLATIONS = {
    "GR": {},
    "manual": {"vocabulary": "manual"},
    "binary": {"vocabulary": "binary"},
    "full mixup": {"mixup": "full"},
    "without CLEM": {"clem": False},
    "mixup with teacher forcing": {"curriculum": 1.0},
    "curriculum without mixup": {"mixup": None},
    "linear": {"curriculum": "linear"},
    "exponential": {"curriculum": "exponential"},
    "p = 0.5": {"curriculum": 0.5},
    "p = 0": {"curriculum": 0.0},
}


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


class Counter:
    """Records what a decoder was called with."""

    def __init__(self, m: GenerativeRegression) -> None:
        self.inputs: list[torch.Tensor] = []
        m.decoder.register_forward_pre_hook(lambda _, args: self.inputs.append(args[0]))


# ------------------------------------------------------------------------------------------------- curriculum


def test_sampling_rates():
    i = torch.arange(0, 1500, 50)
    direct = 0.9 * 100 / (100 + torch.exp(i.double() / 100))
    assert torch.allclose(sampling_rate("inverse_sigmoid", i, 0.9, 100.0).double(), direct, rtol=1e-5)
    half = torch.tensor(100 * math.log(100))
    for kind in ("inverse_sigmoid", "linear", "exponential"):
        assert float(sampling_rate(kind, half, 0.8, 100.0)) == pytest.approx(0.4, abs=1e-5)
        p = sampling_rate(kind, torch.arange(0, 5000, 10), 1.0, 100.0)
        assert bool((p.diff() <= 0).all())
        assert float(p[0]) > 0.98
        assert 0 <= float(sampling_rate(kind, torch.tensor(10**9))) < 1e-6  # no overflow
    assert torch.allclose(sampling_rate("linear", half / 2), torch.tensor(0.75))
    assert torch.allclose(sampling_rate("exponential", 3 * half), torch.tensor(0.125))
    assert sampling_rate(0.3, i).unique().tolist() == [pytest.approx(0.3)]
    with pytest.raises(ValueError, match="curriculum: expected 'inverse_sigmoid', 'linear', 'exponential' or a probability"):
        sampling_rate("cosine", i)  # type: ignore[arg-type]


def test_the_iteration_is_counted_in_training_alone_and_moves_p():
    m = model(omega=2.0)
    first = float(m.loss(table())["p"])
    assert int(m.iteration) == 0
    m.train()
    seen = [float(m.loss(table())["p"]) for _ in range(6)]
    assert int(m.state_dict()["iteration"]) == 6
    assert seen[0] == first == pytest.approx(2 / 3)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == pytest.approx(2 / (2 + math.exp(5 / 2)), rel=1e-5)
    m.prepare(table())  # a new training starts from the beginning
    assert int(m.iteration) == 0


# ------------------------------------------------------------------------------------------------- the loss


@torch.no_grad()
def restated(m: GenerativeRegression, t: dict[str, torch.Tensor], p: float) -> tuple[float, float]:
    """CE and Huber row by row, position by position; p is 0 or 1."""
    memory, g, E = m.encoder(t), m.token_values.tolist(), m.decoder.tok_emb.weight.detach()
    V, b = len(g), m.window // 2
    ce, huber, count = 0.0, 0.0, 0
    for r in range(len(t["y"])):
        left, target = float(t["y"][r]), []
        while left > m.tolerance * float(t["y"][r]):
            token = next(j for j in range(FIRST, V) if g[j] <= left)
            target.append(token)
            left -= g[token]
        target.append(EOS)
        row = memory[r : r + 1]
        x = E[torch.tensor([SOS, *target[:-1]])]
        if p == 0:
            first = m.decoder(x[None], row)[0]
            fed = [x[0]]
            for t_ in range(len(target) - 1):
                top = int(first[t_].argmax())
                if m.mixup is None:
                    fed.append(E[top])
                    continue
                near = [j for j in range(FIRST, V) if abs(j - top) <= b] if top >= FIRST else [top]
                near = list(range(V)) if m.mixup == "full" else near
                fed.append(first[t_, near].softmax(0) @ E[near])
            x = torch.stack(fed)
        logits = m.decoder(x[None], row)[0]
        value = 0.0
        for t_, token in enumerate(target):
            q = logits[t_].softmax(0)
            ce -= float(q[token].log())
            count += 1
            top = int(q.argmax())
            value += sum(float(q[j]) * g[j] for j in range(max(0, top - b), min(V, top + b + 1)))
        error = abs(value - float(t["y"][r]))
        huber += 0.5 * error**2 if error <= 1 else error - 0.5
    return ce / count, huber / len(t["y"])


@pytest.mark.parametrize("options", [{}, {"mixup": "full"}, {"mixup": None}, {"window": 4}], ids=str)
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_loss_restated(options, p):
    m, t = model(curriculum=p, token_weight=7.0, huber_weight=0.5, **options), {k: v[:9] for k, v in table().items()}
    parts = m.loss(t)
    ce, huber = restated(m, t, p)
    assert float(parts["tokens"]) == pytest.approx(ce, rel=1e-4)
    assert float(parts["huber"]) == pytest.approx(huber, rel=1e-4)
    assert float(parts["loss"].detach()) == pytest.approx(7 * ce + 0.5 * huber, rel=1e-4)


def test_inputs_of_the_second_pass():
    m, t = model(curriculum=0.5), table()
    seen = Counter(m)
    m.loss(t)
    first, second = seen.inputs
    tokens = m._tokens(t["y"])
    E = m.decoder.tok_emb.weight
    true = E[F.pad(tokens[:, :-1], (1, 0), value=SOS)]
    assert torch.equal(second[:, 0], E[SOS].expand(len(tokens), -1))
    same = (second == true).all(-1)[:, 1:]  # positions where the input is the true token
    written = tokens[:, :-1] > EOS
    assert 0.4 < float(same[written].float().mean()) < 0.6
    assert same.any(1).logical_and(~same.all(1)).any()  # decided per position, not per row
    logits = m.decoder(first, m.encoder(t))[:, :-1]
    fed = ops.embedding_mixup(logits, E, window=m.window)
    assert torch.allclose(second[:, 1:][~same], fed[~same], atol=1e-5)


def test_gradients_go_back_through_the_mixture():
    """With p = 0 only the mixture tells the second pass about later tokens, and pass 1 is trained through it."""
    for mixup, flows in (("window", True), ("full", True), (None, False)):
        m = model(curriculum=0.0, mixup=mixup)
        logits = []
        m.decoder.register_forward_hook(lambda *a, logits=logits: logits.append(a[2]) or a[2].retain_grad())
        m.loss(table())["loss"].backward()
        assert (logits[0].grad is not None and bool(logits[0].grad.abs().sum() > 0)) == flows, mixup


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_trains_and_predicts(name):
    m, t = model(**ABLATIONS[name]).train(), table()
    seen = Counter(m)
    m.loss(t)["loss"].backward()
    assert len(seen.inputs) == (1 if name in ("without CLEM", "mixup with teacher forcing") else 2)
    assert all(p.grad is not None for p in m.parameters())
    draws = m.sample(t, 3)
    assert draws.shape == (120, 3)
    assert bool((draws >= 0).all())
    assert bool(draws[:, 0].ne(draws[:, 1]).any())
    assert m.predict(t, statistic="greedy").isfinite().all()


def test_what_ablations_change():
    assert (model(clem=False).mixup, model(clem=False).curriculum) == (None, 1.0)
    assert (model(curriculum=1.0).mixup, model(curriculum=1.0).curriculum) == ("window", 1.0)  # mixup at decoding alone
    powers = model(vocabulary="binary").token_values[FIRST:]
    assert torch.equal(powers, torch.exp2(torch.arange(len(powers)).flip(0).float()))
    manual = model(vocabulary="manual").token_values[FIRST:]
    assert {float(v) / 10 ** math.floor(math.log10(float(v))) for v in manual} == {1.0, 3.0, 5.0}
    given = ValueVocabulary.manual(table()["y"].numpy())
    m = GenerativeRegression(**{**SMALL, "vocabulary": given})
    assert len(m.decoder.tok_emb.weight) == given.size  # before any data was seen
    m.prepare(table())
    assert torch.equal(m.token_values[FIRST:], torch.from_numpy(given.values.astype(np.float32)))


# ------------------------------------------------------------------------------------------------- vocabulary and checkpoints


LABELS = {
    "whole numbers": (lambda r: r.integers(0, 30, 300), 1.0),
    "years": (lambda r: r.integers(1900, 2020, 300), 1.0),
    "yes or no": (lambda r: r.integers(0, 2, 300), 1.0),
    "one of many": (lambda r: np.r_[np.zeros(299), 1.0], 1.0),
    "zeros": (lambda r: np.zeros(300), 0.001),
    "seconds": (lambda r: r.lognormal(3, 1, 300), 0.001),
    "shares": (lambda r: r.random(300), 0.0001),
    "an outlier": (lambda r: np.r_[r.random(299), 1e9], 0.0001),
    "tiny": (lambda r: r.random(300) * 1e-30, 1e-34),
    "huge": (lambda r: r.random(300) * 1e30, 1e15),
    "a wide range": (lambda r: 10 ** r.uniform(-8, 12, 300), 0.001),
}


@pytest.mark.parametrize("vocabulary", ["dynamic", "manual", "binary"])
@pytest.mark.parametrize("kind", LABELS)
def test_any_labels_can_be_written(kind, vocabulary):
    """In the unit that suits them, and in sequences that are not too long: quantiles of few distinct values leave gaps."""
    make, unit = LABELS[kind]
    y = torch.from_numpy(make(np.random.default_rng(0))).float()
    m = GenerativeRegression(dense_width=1, hidden=8, attention_heads=2, ffn=8, layers=1, vocabulary=vocabulary)
    m.prepare({"y": y, "dense": torch.zeros(len(y), 1)})
    assert m.vocabulary.unit == pytest.approx(unit)
    tokens, lengths, _ = m.vocabulary.encode(y.double().numpy(), m.max_tokens, m.tolerance)
    assert m.longest_sequence == lengths.max() + 2 <= m.max_tokens
    np.testing.assert_allclose(m.vocabulary.decode(tokens), y.double(), rtol=0.0011, atol=0.51 * unit)
    assert m.loss({"y": y, "dense": torch.zeros(len(y), 1)})["loss"].isfinite()


def test_labels_are_written_exactly_in_the_unit():
    t = table()
    m = GenerativeRegression(**{**SMALL, "unit": 0.001, "tolerance": 0.0})
    t["y"] = t["y"] / 8 + 0.037
    m.prepare(t)
    tokens = m._tokens(t["y"])
    assert torch.allclose(m.token_values[tokens].sum(1), t["y"], atol=6e-4)
    assert bool(((tokens == EOS).sum(1) == 1).all())
    after = (tokens == EOS).cumsum(1) - (tokens == EOS).long()
    assert bool((tokens[after > 0] == PAD).all())
    assert bool((tokens[:, :-1] <= tokens[:, 1:])[tokens[:, 1:] >= FIRST].all())  # values do not increase
    assert int(m.longest) == m.longest_sequence == int((tokens >= FIRST).sum(1).max()) + 2
    few = m._tokens(torch.tensor([0.0, 0.0]))
    assert few.tolist() == [[EOS], [EOS]]  # no longer than the batch needs


def test_a_checkpoint_holds_the_vocabulary():
    m, t = model(), table()
    m.iteration.fill_(17)
    other = GenerativeRegression(**SMALL)
    assert other.decoder.tok_emb.weight.shape != m.decoder.tok_emb.weight.shape
    other.load_state_dict(m.state_dict())
    assert torch.equal(other.sample(t, 3), m.sample(t, 3))
    assert torch.equal(other.predict(t, statistic="greedy"), m.predict(t, statistic="greedy"))
    assert (other.longest_sequence, int(other.iteration)) == (m.longest_sequence, 17)
    assert other.vocabulary.size == m.vocabulary.size
    other.train().loss({k: v[:8] for k, v in t.items()})  # a loaded model is prepared: one small batch must not refit it
    assert torch.equal(other.token_values, m.token_values)
    binary = model(vocabulary="binary")
    binary.load_state_dict(m.state_dict())  # the checkpoint's vocabulary counts
    assert torch.equal(binary.token_values, m.token_values)


def test_a_model_that_has_seen_no_labels_works():
    m, x = GenerativeRegression(**SMALL).eval(), table(5)
    assert m.sample(x, 2).shape == (5, 2)
    assert m.loss(x)["loss"].isfinite()
    with pytest.raises(ValueError, match="at index 1"):
        m.loss({"dense": x["dense"][:2], "y": torch.tensor([1.0, 1e30])})


def test_a_vocabulary_larger_than_the_places_there_were():
    t = table(80)
    t["y"] = torch.arange(80.0)
    given = ValueVocabulary(list(range(1, 71)))
    before = torch.get_rng_state()
    m = GenerativeRegression(**{**SMALL, "vocabulary": given})
    state = torch.get_rng_state()
    m.prepare(t)
    assert torch.equal(state, torch.get_rng_state())  # the caller's random numbers stay as they were
    assert not torch.equal(before, state)
    assert m.decoder.tok_emb.weight.shape == (73, 16)
    assert len(m.decoder.tok_emb.weight.detach().unique(dim=0)) == 73
    m.loss(t)["loss"].backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    m, x = model(unit=0.25), table(40)
    want = m.predict(x, 8), m.token_values
    m = m.to(dtype)
    x = {"dense": x["dense"].to(dtype), "y": x["y"]}
    assert m.vocabulary.unit == 0.25
    assert torch.equal(m.token_values.float(), want[1])
    m.train().loss(x)["loss"].backward()
    got = m.eval().predict(x, 8).float()
    assert got.isfinite().all()
    if dtype == torch.float64:
        assert (got - want[0]).abs().median() < 1e-4  # but where a token was a near-tie


def test_a_skeleton_takes_a_checkpoint():
    m, x = model(), table(20)
    with torch.device("meta"):
        other = GenerativeRegression(**SMALL)
    other.to_empty(device="cpu").load_state_dict(m.state_dict())
    assert torch.equal(other.eval().sample(x, 2), m.sample(x, 2))


def test_an_optimizer_made_first_trains_what_is_fitted_later():
    torch.manual_seed(0)
    m, t = GenerativeRegression(**SMALL), table()
    optimizer = torch.optim.Adam(m.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        parts = m.loss(t)  # the first batch fits the vocabulary
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        losses.append(float(parts["tokens"]))
    assert losses[-1] < 0.9 * losses[0]
    registered = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in m.parameters()} == registered
    assert optimizer.state[m.decoder.linear.weight]["exp_avg"].shape == m.decoder.linear.weight.shape == (len(m.token_values), 16)


# ------------------------------------------------------------------------------------------------- learning


@pytest.mark.slow
def test_it_memorizes_a_small_table():
    train = {"dense": 3 * torch.eye(16), "y": table(17)["y"][1:].clamp(max=300)}
    m = GenerativeRegression(**{**SMALL, "dense_width": 16, "hidden": 32, "readout": "tokens"}, omega=60.0)
    fit(m, train, epochs=250, batch_size=16, lr=1e-2, weight_decay=0.0, average=0.0, progress=False)
    assert 0.2 < float(m.loss(train)["p"]) < 0.6  # between true tokens and predictions
    for statistic in ("greedy", "median"):
        exact = (m.predict(train, 9, statistic=statistic) - train["y"]).abs() < 0.5
        assert int(exact.sum()) >= 15  # without positions, tokens that repeat are the hardest
    m.readout = "windowed"
    assert (m.predict(train, statistic="greedy") - train["y"]).abs().mean() < 0.2 * train["y"].mean()


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"vocabulary": "quantile"}, "vocabulary: expected 'dynamic', 'manual', 'binary' or a ValueVocabulary, got 'quantile'"),
        ({"mixup": "soft"}, "mixup: expected 'window', 'full' or None, got 'soft'"),
        ({"readout": "sum"}, "readout: expected 'windowed' or 'tokens', got 'sum'"),
        ({"curriculum": "cosine"}, "curriculum: expected 'inverse_sigmoid', 'linear', 'exponential' or a probability, got 'cosine'"),
        ({"curriculum": 1.5}, r"curriculum: expected a probability in \[0, 1\], got 1.5"),
        ({"p0": -0.1}, r"p0: expected a probability in \[0, 1\], got -0.1"),
        ({"omega": 1.0}, "omega: expected a number above 1, got 1.0"),
        ({"unit": 0.0}, "unit: expected a positive number, got 0.0"),
        ({"tolerance": 1.0}, r"tolerance: expected a share in \[0, 1\), got 1.0"),
        ({"max_tokens": 1}, "max_tokens: expected at least 2, SOS and EOS, got 1"),
        ({"window": -1}, "window: expected at least 0, got -1"),
        ({"token_weight": -1.0}, "token_weight, huber_weight: expected at least 0"),
        ({"layers": 0}, "layers: expected a whole number of at least 1, got 0"),
    ],
    ids=str,
)
def test_constructor_errors(options, text):
    with pytest.raises(ValueError, match=text):
        GenerativeRegression(**{**SMALL, **options})


def test_sampler_and_batch_errors():
    m, x = model(), table(4)
    for call, text in (
        (lambda: ValueSampler(m, temperature=0.0), "temperature: expected a number above 0, got 0.0"),
        (lambda: ValueSampler(m, max_rows=0), "max_rows: expected at least 1, got 0"),
        (lambda: m.predict(x, statistic="mode"), "statistic: expected 'median', 'mean' or 'greedy', got 'mode'"),
        (lambda: m.sample(x, 0), "n: expected 1 to 16777216, got 0"),
        (lambda: m.interval(x, 1.0), "level: expected a share strictly between 0 and 1"),
        (lambda: m.sample(x, 1, row_ids=torch.arange(3)), r"row_ids: expected shape \[B\] = \[4\], got \[3\]"),
        (lambda: m.sample({"y": x["y"]}, 1), "batch: expected the key 'dense', got y"),
        (lambda: m.loss({"dense": x["dense"]}), "batch: expected the key 'y', got dense"),
        (lambda: m.loss({**x, "y": torch.tensor([0.0, 1.0, float("nan"), 2.0])}), "y: expected finite values of at least 0, got nan"),
        (lambda: model(max_tokens=3), r"labels: expected sequences of at most 1 values and EOS \(max_tokens=3\)"),
        (lambda: m.prepare({"y": x["y"][:0]}), "y: expected at least one training row, got none"),
    ):
        with pytest.raises(ValueError, match=text):
            call()

"""The diagnostics against their definitions, worked by hand or by brute force, and the theorems that they come from."""

import math

import pytest
import torch

from ordkernels import diagnostics as d

torch.manual_seed(0)


def test_gradient_conflict_is_the_cosine_of_the_gradients():
    net = torch.nn.Linear(3, 4)
    x = torch.randn(10, 3)
    losses = [net(x)[:, k].square().mean() + 0.1 * net.weight[0].sum() for k in range(4)]
    got = d.gradient_conflict(losses, net.parameters())
    grads = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)]) for loss in losses]
    for i in range(4):
        for j in range(4):
            assert got[i, j] == pytest.approx(float(torch.cosine_similarity(grads[i], grads[j], dim=0)), abs=1e-6)


def test_gradient_conflict_unreached_parameters_and_zero_gradients():
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    assert torch.equal(d.gradient_conflict([a.sum(), b.sum()], [a, b]), torch.eye(2))  # separate heads never conflict
    assert torch.equal(d.gradient_conflict([a.sum(), 0 * a.sum()], [a]), torch.eye(2))
    assert torch.allclose(d.gradient_conflict(torch.stack([a.sum(), (2 * a).sum()]), [a]), torch.ones(2, 2))
    with pytest.raises(ValueError, match="params: expected at least one"):
        d.gradient_conflict([a.sum()], [a.detach()])
    with pytest.raises(ValueError, match=r"losses: expected scalars, got shape \[2\] at index 0"):
        d.gradient_conflict([a], [a])
    with pytest.raises(ValueError, match="losses: expected at least one"):
        d.gradient_conflict([], [a])


def test_ranks():
    H = torch.linalg.qr(torch.randn(20, 6))[0]
    assert d.effective_rank(H) == pytest.approx(6, abs=1e-4)
    assert d.stable_rank(H) == pytest.approx(6, abs=1e-4)
    collapsed = torch.randn(20, 1) @ torch.randn(1, 6)
    assert d.effective_rank(collapsed) == pytest.approx(1, abs=1e-3)
    general = torch.randn(30, 6)
    assert 1 <= d.stable_rank(general) <= d.effective_rank(general) + 1e-4 <= 6.001  # entropy at order 1 and 2
    s = torch.linalg.svdvals(general)
    p = s / s.sum()
    assert d.effective_rank(general) == pytest.approx(math.exp(-float((p * p.log()).sum())), rel=1e-5)
    for empty in (torch.zeros(4, 3), torch.zeros(0, 3)):
        assert d.effective_rank(empty) == d.stable_rank(empty) == 0
    with pytest.raises(ValueError, match=r"H: expected \[N, D\], got \[2\]"):
        d.effective_rank(torch.zeros(2))


def test_oracle_is_no_worse_than_any_fixed_time():
    y, yhat = torch.randn(100), torch.randn(100, 5)
    best = d.oracle_time(y, yhat)
    errors = (yhat - y[:, None]).abs()
    assert torch.equal((best.prediction - y).abs(), errors.min(dim=1).values)
    assert torch.equal(best.time, errors.argmin(dim=1))
    with pytest.raises(ValueError, match=r"y: expected \[B\] = \[100\], got \[3\]"):
        d.oracle_time(y[:3], yhat)


def test_min_variance_fusion_beats_every_single_time_and_the_mean():
    signal = 10 * torch.randn(20000, 1)
    mix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    yhat = signal + torch.randn(20000, 3) @ mix  # correlated errors of different sizes
    y = signal[:, 0]

    def mse(prediction):
        return float((prediction - y).square().mean())

    fused = d.fuse_times(yhat, "min_variance", y=y)
    assert mse(fused) < min(*(mse(yhat[:, m]) for m in range(3)), mse(yhat.mean(dim=1)))
    cov = (mix.T @ mix).double()
    exact = torch.linalg.solve(cov, torch.ones(3, dtype=torch.float64))
    exact = exact / exact.sum()
    assert torch.allclose(d.min_variance_weights(yhat, y).double(), exact, atol=0.03)
    assert torch.allclose(d.min_variance_weights(yhat).double(), exact, atol=0.2)  # without y: the signal drops out
    assert torch.allclose(d.fuse_times(yhat, [0.2, 0.3, 0.5]), yhat @ torch.tensor([0.2, 0.3, 0.5]))


def test_fusion_edges():
    assert torch.equal(d.fuse_times(torch.tensor([[1.0, 3.0]])), torch.tensor([2.0]))  # one row: equal weights
    assert torch.allclose(d.min_variance_weights(torch.ones(5, 4)), torch.full((4,), 0.25))
    same = torch.randn(50, 1).expand(50, 2)
    assert torch.allclose(d.min_variance_weights(same), torch.full((2,), 0.5), atol=1e-3)
    with pytest.raises(ValueError, match="weights: expected a sum of 1, got 2"):
        d.fuse_times(torch.ones(5, 2), [1.0, 1.0])
    with pytest.raises(ValueError, match=r"weights: expected shape \[M\] = \[2\], got \[3\]"):
        d.fuse_times(torch.ones(5, 2), torch.ones(3) / 3)
    with pytest.raises(ValueError, match="weights: expected 'min_variance'"):
        d.fuse_times(torch.ones(5, 2), "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"yhat: expected \[B, M\]"):
        d.fuse_times(torch.ones(5, 0))


def test_error_bound_holds_for_decoded_classes():
    """Theorem: labels in the middle of their interval, an x0 estimate from a noise predictor of known error."""
    gap, ab = 1.0, 0.9
    y = torch.randint(0, 5, (5000,)).float()
    noise_error = 0.4 * torch.randn(5000)
    yhat = y - math.sqrt((1 - ab) / ab) * noise_error
    wrong = (d.decode_ordinal(yhat, [0.5, 1.5, 2.5, 3.5]) != y).float().mean()
    bound = d.ordinal_error_bound(noise_error.square().mean(), ab, gap)
    assert 0 < wrong <= bound
    assert float(d.ordinal_error_bound(0.01, torch.tensor([0.8, 1.0]), 0.5)[0]) == pytest.approx(0.04)
    for args, name in (((-1, 0.5, 1), "loss_t"), ((1, 0.0, 1), "alphabar_t"), ((1, 0.5, 0), "gap")):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            d.ordinal_error_bound(*args)


def test_decode_ordinal():
    y = torch.tensor([-9.0, 0.5, 0.50001, 1.5, float("nan"), float("inf")])
    assert d.decode_ordinal(y, [0.5, 1.5]).tolist() == [0, 0, 1, 1, -1, 2]
    assert d.decode_ordinal(torch.randn(3, 4), torch.tensor([0.0])).shape == (3, 4)
    with pytest.raises(ValueError, match="thresholds: expected a strictly ascending vector"):
        d.decode_ordinal(y, [1.0, 1.0])


def test_value_embedding_is_the_share_weighted_sum():
    values, E = torch.tensor([0.0, 0, 0, 5, 2, 1]), torch.randn(6, 7)
    tokens = torch.tensor([[3, 4, 5, 2, 0], [5, 2, 0, 0, 0], [2, 0, 0, 0, 0]])
    got = d.value_embedding(tokens, values, E)
    assert torch.allclose(got[0], (5 * E[3] + 2 * E[4] + E[5]) / 8, atol=1e-6)
    assert torch.allclose(got[1], E[5])
    assert torch.equal(got[2], torch.zeros(7))  # the number 0
    with pytest.raises(ValueError, match=r"values: expected \[V\]"):
        d.value_embedding(tokens, values[:4], E)
    with pytest.raises(ValueError, match=r"tokens: expected \[B, T\]"):
        d.value_embedding(tokens[0], values, E)


@pytest.mark.parametrize(
    "kind",
    [
        lambda t: t.tolist(),
        lambda t: t.numpy(),
        lambda t: t.numpy()[::-1].copy()[::-1],
        lambda t: t.numpy().astype(t.numpy().dtype.newbyteorder(">")),
    ],
)
def test_arrays_and_lists_are_taken_as_tensors_are(kind):
    yhat, y = torch.tensor([[0.0, 1.5], [5.0, 9.0], [2.0, 4.0]]), torch.tensor([1.0, 5.0, 2.0])
    tokens, values = torch.tensor([[3, 4, 2]]), torch.tensor([0.0, 0.0, 0.0, 6.0, 2.0])
    for call, *arguments in (
        (d.effective_rank, yhat),
        (d.stable_rank, yhat),
        (d.oracle_time, y, yhat),
        (d.min_variance_weights, yhat, y),
        (lambda a, b: d.fuse_times(a, y=b), yhat, y),
        (d.decode_ordinal, y, torch.tensor([0.5, 1.5])),
        (d.value_embedding, tokens, values, torch.eye(5)),
    ):
        torch.testing.assert_close(call(*map(kind, arguments)), call(*arguments), check_dtype=False)
    with pytest.raises(TypeError, match="yhat: expected an array or a sequence of numbers, got NoneType"):
        d.oracle_time(y, None)

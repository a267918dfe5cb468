"""Session denoiser and filters: against loops over rows and sessions, ragged against padded, hostile content, stable keys, errors."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ordkernels.nn import SessionDenoiser, SessionFilters
from ordkernels.nn.fusion import pad_sessions

B, K, D, C = 6, 4, 8, 5
NAN = float("nan")


def make(**options: object) -> tuple[SessionDenoiser, Tensor, Tensor, Tensor, Tensor]:
    """A denoiser, x, g_cp, g_tf and a mask with an empty and a full row."""
    net = SessionDenoiser(D, C, hidden=24, time_width=6, **options).double().eval()  # type: ignore[arg-type]
    net.empty.data.normal_()
    mask = torch.rand(B, K) < 0.5
    mask[0], mask[1] = False, True
    return net, *(torch.randn(s).double() for s in ((B, D), (B, K, C), (B, K, C))), mask


def row_by_row(net: SessionDenoiser, x: Tensor, t: Tensor, g: Tensor, mask: Tensor) -> Tensor:
    out = []
    for b in range(len(x)):
        y = x[b : b + 1]
        for k in range(g.shape[1]):
            if mask[b, k]:
                y = net.network(y, t.expand(len(x))[b : b + 1], g[b : b + 1, k])
        out.append(y)
    return torch.cat(out)


def test_sessions_are_taken_in_turn():
    net, x, g, _, mask = make()
    for t in (torch.tensor(7), torch.randint(1, 9, (B,))):
        torch.testing.assert_close(net(x, t, g, mask), row_by_row(net, x, t, g, mask))
        torch.testing.assert_close(net(x, t, g), row_by_row(net, x, t, g, torch.ones_like(mask)))
    assert torch.equal(net(x, 7, g, mask)[0], x[0])
    assert not torch.allclose(net(x, 7, g.flip(1)), net(x, 7, g))  # their order counts
    assert torch.equal(net(x, 7, g[:, :0]), x)
    assert net(x[:0], 7, g[:0], mask[:0]).shape == (0, D)


def test_three_branches_are_one_call():
    net, x, cp, tf, mask = make()
    drop = torch.arange(B) % 2 == 0
    rows = []
    net.network.output.register_forward_hook(lambda _, given, out: rows.append(given[0].shape[:-1]))
    un, f_cp, f_tf = net.branches(x, 7, cp, tf, mask, empty_tf=drop)
    assert rows == [(3, B)] * K
    empty = net.empty.expand(B, K, C)
    torch.testing.assert_close(un, row_by_row(net, x, torch.tensor(7), empty, mask))
    torch.testing.assert_close(f_cp, net(x, 7, cp, mask))
    torch.testing.assert_close(f_tf, net(x, 7, tf, mask, empty=drop))
    torch.testing.assert_close(f_tf, torch.where(drop[:, None], un, net(x, 7, tf, mask)))


@pytest.mark.parametrize("parallel", [False, True])
def test_masked_sessions_change_nothing(parallel):
    net, x, cp, tf, mask = make(parallel=parallel)
    results = []
    for junk in (0.0, NAN, 1e300):
        a, b = (torch.where(mask[..., None], g, junk).requires_grad_() for g in (cp, tf))
        net.zero_grad()
        out = net.branches(x, 7, a, b, mask)
        sum(f.square().sum() for f in out).backward()
        results.append([*out, a.grad, b.grad, *(p.grad.clone() for p in net.parameters())])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
    assert not results[0][3][~mask].any()
    assert all(torch.equal(f[0], x[0]) for f in results[0][:3])


def test_ragged_is_padded():
    net, x, *_ = make()
    offsets = torch.tensor([0, 0, 4, 5, 5, 7, 9])
    cp, tf = torch.randn(9, C).double(), torch.randn(9, C).double()
    (a, mask), (b, _) = pad_sessions(cp, offsets), pad_sessions(tf, offsets)
    assert mask.sum(1).tolist() == offsets.diff().tolist()
    assert torch.equal(a[mask], cp)
    assert not a[~mask].any()
    for ragged, padded in zip(net.branches(x, 7, cp, tf, offsets=offsets), net.branches(x, 7, a, b, mask), strict=True):
        assert torch.equal(ragged, padded)
    assert pad_sessions(cp[:0], torch.zeros(B + 1, dtype=torch.int64), 3)[0].shape == (B, 3, C)
    assert torch.equal(net(x, 7, cp[:0], offsets=torch.zeros(B + 1, dtype=torch.int64)), x)


def test_parallel_injection_averages_over_the_sessions():
    net, x, cp, _, mask = make(parallel=True)
    got = net(x, 7, cp, mask)
    for b in range(1, B):
        each = [net.network(x[b : b + 1], 7, cp[b : b + 1, k]) for k in range(K) if mask[b, k]]
        torch.testing.assert_close(got[b], torch.stack(each).mean(0)[0] if each else x[b])
    torch.testing.assert_close(net(x, 7, cp), net(x, 7, cp, torch.ones_like(mask)))
    assert torch.equal(net(x, 7, cp[:, :0]), x)


def test_keys_and_gradients():
    net, x, cp, tf, mask = make()
    names = ["input.weight", "input.bias", "condition.weight", "output.weight", "output.bias"]
    assert list(net.state_dict()) == ["empty", *(f"network.{n}" for n in names)]
    assert SessionDenoiser(D).cond_width == D
    leaves = [t[:3, ..., :2].clone().requires_grad_() for t in (x, cp[:, :2], tf[:, :2])]
    small = SessionDenoiser(2, 2, hidden=5, time_width=2).double()
    assert torch.autograd.gradcheck(lambda *a: small.branches(a[0], 3, a[1], a[2], mask[:3, :2]), leaves)
    sum(f.square().sum() for f in net.branches(x, 3, cp, tf, mask)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_dropout_only_in_training():
    net, x, cp, _, mask = make(dropout=0.5)
    assert not torch.equal(net.train()(x, 3, cp, mask), net(x, 3, cp, mask))
    assert torch.equal(net.eval()(x, 3, cp, mask), net(x, 3, cp, mask))


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (dict(x=torch.zeros(B, D + 1)), ValueError, r"x: expected \[B, D\] with D = 8, got \[6, 9\]"),
        (dict(t=torch.ones(3)), ValueError, r"t: expected \[\] or \[B\] = \[6\], got \[3\]"),
        (dict(g=torch.zeros(B, K, C + 1)), ValueError, r"g: expected \[B, K, C\] with B, C = 6, 5, got \[6, 4, 6\]"),
        (dict(mask=torch.ones(B, K)), TypeError, "mask: expected a bool tensor, got torch.float32"),
        (dict(mask=torch.ones(B, 3, dtype=torch.bool)), ValueError, r"mask: expected \[B, K\] = \[6, 4\], got \[6, 3\]"),
        (dict(empty=torch.ones(2, dtype=torch.bool)), ValueError, r"empty: expected \[B\] = \[6\], got \[2\]"),
        (dict(offsets=torch.zeros(7, dtype=torch.int64)), ValueError, "mask: expected None with offsets, got both"),
        (dict(mask=None, g=torch.zeros(3, C), offsets=torch.zeros(7)), TypeError, "offsets: expected an int64 tensor, got torch.float32"),
        (dict(mask=None, g=torch.zeros(3, C), offsets=torch.tensor([0, 2, 1, 3])), ValueError, "offsets: expected to rise from 0 to 3"),
        (dict(mask=None, g=torch.zeros(3, C), offsets=torch.tensor([0, 3])), ValueError, r"g: expected \[N, C\] with C = 5 and offsets"),
    ],
)
def test_denoiser_errors(change, kind, text):
    net = SessionDenoiser(D, C)
    given = dict(x=torch.zeros(B, D), t=1, g=torch.zeros(B, K, C), mask=torch.ones(B, K, dtype=torch.bool)) | change
    with pytest.raises(kind, match=text):
        net(given.pop("x"), given.pop("t"), given.pop("g"), given.pop("mask"), **given)


# ---- filters


def session_by_session(net: SessionFilters, sessions: list[Tensor]) -> tuple[Tensor, Tensor]:
    mean = torch.stack([e.mean(0) if len(e) else e.sum(0) for e in sessions])
    focus = torch.stack([(torch.softmax(torch.tanh(e @ net.score[0].weight.T + net.score[0].bias) @ net.score[2].weight[0], 0)[:, None] * e).sum(0) for e in sessions])  # noqa: E501  # fmt: skip
    return (
        F.silu(mean @ net.core[0].weight.T + net.core[0].bias) @ net.core[3].weight.T + net.core[3].bias,
        F.silu(focus @ net.transient[0].weight.T + net.transient[0].bias) @ net.transient[3].weight.T + net.transient[3].bias,
    )


def test_filters_are_their_formulas_ragged_and_padded():
    net = SessionFilters(D, C, hidden=7).double().eval()
    sizes = [3, 0, 1, 5, 2, 0]
    items, offsets = torch.randn(11, D).double(), torch.tensor([0, *torch.tensor(sizes).cumsum(0)])
    want = session_by_session(net, list(items.split(sizes)))
    torch.testing.assert_close(net(items, offsets=offsets), want)
    padded = torch.full((3, 2, 5, D), NAN, dtype=torch.float64)
    mask = torch.zeros(3, 2, 5, dtype=torch.bool)
    for i, e in enumerate(items.split(sizes)):
        padded[i // 2, i % 2, : len(e)], mask[i // 2, i % 2, : len(e)] = e, True
    order = torch.randperm(5)
    for a, b in zip(net(padded[:, :, order], mask[:, :, order]), want, strict=True):
        torch.testing.assert_close(a.flatten(0, 1), b)
    whole = torch.randn(2, 3, 4, D).double()
    for a, b in zip(net(whole), net(whole, torch.ones(2, 3, 4, dtype=torch.bool)), strict=True):
        torch.testing.assert_close(a, b)
    assert [t.shape for t in net(items[:0], offsets=torch.zeros(1, dtype=torch.int64))] == [(0, C)] * 2
    assert [t.shape for t in net(whole[:, :, :0])] == [(2, 3, C)] * 2


def test_filters_gradients_and_hostile_items():
    net = SessionFilters(D).double().eval()
    assert [n.rpartition(".")[0] for n in net.state_dict()][::2] == ["core.0", "core.3", "transient.0", "transient.3", "score.0", "score.2"]
    offsets = torch.tensor([0, 4, 4, 9])
    items = torch.randn(9, D).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: net(e, offsets=offsets), items)
    grads = torch.autograd.grad(sum(t.square().sum() for t in net(items, offsets=offsets)), [items, *net.parameters()])
    assert all(g.abs().sum() > 0 for g in grads)
    mask = torch.rand(2, 3, 4) < 0.6
    mask[0, 0] = False
    made = []
    for junk in (0.0, NAN):
        e = torch.where(mask[..., None], torch.ones(2, 3, 4, D).cumsum(2).double(), junk).requires_grad_()
        out = net(e, mask)
        made.append([*out, *torch.autograd.grad(sum(t.square().sum() for t in out), [e, *net.parameters()])])
    assert all(map(torch.equal, *made))
    assert all(t.isfinite().all() for t in made[1])
    huge = items.detach() * 1e4  # scores are bounded by tanh, so only their spread matters; a bad row stays in its session
    huge[0, 0] = NAN
    core, transient = net(huge, offsets=offsets)
    assert core[0].isnan().all()
    assert transient[0].isnan().all()
    assert core[1:].isfinite().all()
    assert transient[1:].isfinite().all()


def test_an_item_alone_is_its_session_whatever_its_score():
    net, items = SessionFilters(D).double().eval(), torch.randn(4, D).double()
    alone = net(items, offsets=torch.arange(5))
    for a, b in zip(alone, (net.core(items), net.transient(items)), strict=True):
        torch.testing.assert_close(a, b)
    seen = []
    net.score.register_forward_hook(lambda _, x, __: seen.append(x[0]))
    net(items, offsets=torch.tensor([0, 1, 3, 4]))
    assert torch.equal(seen[0][:2], items[1:3])
    assert not seen[0][2:].any()  # but whole blocks


def test_the_core_is_regularised_in_training_alone():
    net = SessionFilters(D, core_dropout=0.5).train()
    items, offsets = torch.randn(9, D), torch.tensor([0, 4, 9])
    (a, b), (c, d) = net(items, offsets=offsets), net(items, offsets=offsets)
    assert not torch.equal(a, c)
    assert torch.equal(b, d)
    net.eval()
    assert torch.equal(net(items, offsets=offsets)[0], net(items, offsets=offsets)[0])


@pytest.mark.parametrize(
    ("args", "kind", "text"),
    [
        ((torch.zeros(3, D),), ValueError, r"items: expected \[B, K, S, D\] with D = 8, or \[N, D\] with offsets, got \[3, 8\]"),
        (
            (torch.zeros(1, 2, 3, D), torch.ones(1, 2, dtype=torch.bool)),
            ValueError,
            r"mask: expected \[B, K, S\] = \[1, 2, 3\], got \[1, 2\]",
        ),
        ((torch.zeros(3, D + 1), None, torch.tensor([0, 3])), ValueError, r"items: expected \[N, D\] with D = 8, got \[3, 9\]"),
        ((torch.zeros(3, D), None, torch.tensor([0, 2])), ValueError, "offsets: expected to rise from 0 to 3"),
    ],
)
def test_filter_errors(args, kind, text):
    with pytest.raises(kind, match=text):
        SessionFilters(D)(*args[:2], offsets=args[2] if len(args) > 2 else None)

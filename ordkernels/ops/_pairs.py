"""Pairs in order and out of it by torch's own sorts and sums, on the tensors' device: the exact integers of the compiled kernel."""

import torch
from torch import Tensor

Counts = tuple[float, float, float]


def count(
    y: Tensor, prediction: Tensor, weight: Tensor | None, group: Tensor | None, reference: bool
) -> tuple[Counts, tuple[int, float, float] | None]:
    """[N] each -> (discordant, tied in the prediction, pairs of different y), for `reference` (concordant, tied, all pairs); and,
    with groups, of those with a pair: how many, the sums of concordant / pairs and tied / pairs."""
    _check(y, prediction, weight, group)
    w = None if weight is None else weight.double()
    n = len(y)
    g = torch.zeros(n, dtype=torch.int64, device=y.device) if group is None else _dense(group)
    G = int(g.max()) + 1
    at, label = _within(g, _dense(y)), _within(g, _dense(prediction))
    if reference:
        order = torch.argsort(-label, stable=True)  # one group
        found = int(_inversions(at[order], None, g, 1)[0])
    order = _by(at, label)
    discordant = _inversions(label[order], None if w is None else w[order], g[order], G)
    both = _runs(_dense(at * (int(label.max()) + 1) + label), w, g, G)
    tied = _runs(label, w, g, G) - both
    pairs = _runs(g, w, g, G) - _runs(at, w, g, G)
    all_of_them: Counts = (discordant.sum().item(), tied.sum().item(), pairs.sum().item())
    if reference:
        return (found, all_of_them[1], n * (n - 1) // 2), None
    if group is None:
        return all_of_them, None
    some = pairs > 0
    d, t, m = (x[some].double() for x in (discordant, tied, pairs))
    return all_of_them, (int(some.sum()), float(((m - t - d) / m).sum()), float((t / m).sum()))


def _check(y: Tensor, prediction: Tensor, weight: Tensor | None, group: Tensor | None) -> None:
    for name, t in (("y", y), ("prediction", prediction), ("weight", weight), ("group", group)):
        if t is None:
            continue
        if t.dim() != 1:
            raise ValueError(f"{name}: expected shape [N], got {list(t.shape)}")
        if t.is_complex() or (name == "group" and (t.is_floating_point() or t.dtype == torch.bool)):
            raise TypeError(f"{name}: expected {'integers' if name == 'group' else 'numbers'}, got {t.dtype}")
        if len(t) != len(y):
            raise ValueError(f"{name}: expected shape [N] = [{len(y)}], as y, got [{len(t)}]")
        if not len(t):
            raise ValueError("y: expected at least one row, got none")
        bad = torch.isnan(t)
        if bad.any():
            raise ValueError(f"{name}: expected no NaN, got {int(bad.sum())} of {len(t)}, the first at index {int(bad.int().argmax())}")
        if name == "weight" and not ((t >= 0) & (t < torch.inf)).all():
            i = int(((t < 0) | (t == torch.inf)).int().argmax())
            raise ValueError(f"weight: expected finite numbers of at least 0, got {t[i].item()} at index {i}")


def _dense(x: Tensor) -> Tensor:
    return torch.unique(x, return_inverse=True)[1]


def _within(g: Tensor, code: Tensor) -> Tensor:
    """Dense ranks of (group, code)."""
    return _dense(g * (int(code.max()) + 1) + code)


def _by(first: Tensor, second: Tensor) -> Tensor:
    order = torch.argsort(second, stable=True)
    return order[torch.argsort(first[order], stable=True)]


def _runs(code: Tensor, w: Tensor | None, g: Tensor, G: int) -> Tensor:
    """[G]: pairs of rows with the same code, which lies in one group: n (n - 1) / 2, or ((sum w)^2 - sum w^2) / 2."""
    C = int(code.max()) + 1
    owner = torch.zeros(C, dtype=torch.int64, device=g.device).scatter_(0, code, g)
    if w is None:
        n = torch.zeros(C, dtype=torch.int64, device=g.device).scatter_add_(0, code, torch.ones_like(code))
        pairs = n * (n - 1) // 2
    else:
        total, squares = (torch.zeros(C, dtype=w.dtype, device=w.device).scatter_add_(0, code, x) for x in (w, w * w))
        pairs = (total * total - squares).clamp(min=0) / 2
    return torch.zeros(G, dtype=pairs.dtype, device=g.device).scatter_add_(0, owner, pairs)


def _inversions(code: Tensor, weight: Tensor | None, g: Tensor, G: int) -> Tensor:
    """[G]: pairs i < j of a group with code_i > code_j, or the sums of their w_i w_j; groups one after another, in codes as in rows.

    One pass per bit of the rank, as `reference.scores.inversions`.
    """
    n, device = len(code), code.device
    rank = torch.empty_like(code)
    rank[torch.argsort(code, stable=True)] = torch.arange(n, device=device)
    owner, w, position = g, weight, torch.arange(n, device=device)  # groups' ranks lie where their rows do
    out = torch.zeros(G, dtype=torch.int64 if w is None else w.dtype, device=device)
    for bit in range(max(n - 1, 0).bit_length() - 1, -1, -1):
        one = (rank >> bit) & 1
        start = (rank >> (bit + 1)) << (bit + 1)
        ones = torch.nn.functional.pad(one.cumsum(0), (1, 0))
        before = ones[position] - ones[start]
        if w is None:
            found = before * (1 - one)
        else:
            heavy = torch.nn.functional.pad((one * w).cumsum(0), (1, 0))
            found = w * (heavy[position] - heavy[start]) * (1 - one)
        out.scatter_add_(0, owner[rank], found)
        to = torch.where(one == 1, start + (1 << bit) + before, position - before)
        rank = torch.empty_like(rank).scatter_(0, to, rank)
        if w is not None:
            w = torch.empty_like(w).scatter_(0, to, w)
    return out

"""XAUC's counts of pairs by torch's own sorts and sums, on the tensors' device: the exact integers of the compiled kernel."""

import torch
from torch import Tensor

__all__ = ["count"]

Counts = tuple[float, float, float]


def count(
    y: Tensor, prediction: Tensor, weight: Tensor | None, group: Tensor | None, reference: bool
) -> tuple[Counts, tuple[int, float, float] | None]:
    """[N] each -> (discordant, tied in the prediction, pairs of different y), for `reference` (concordant, tied, all pairs); and,
    with groups: how many have a pair, the sums of concordant / pairs and tied / pairs."""
    _check(y, prediction, weight, group)
    w = None if weight is None else weight.double()
    n = len(y)
    g = torch.zeros(n, dtype=torch.int64, device=y.device) if group is None else _dense_ranks(group)
    G = int(g.max()) + 1
    y_code, p_code = _ranks_by_group(g, _dense_ranks(y)), _ranks_by_group(g, _dense_ranks(prediction))
    concordant = 0
    if reference:
        order = torch.argsort(-p_code, stable=True)  # one group
        concordant = int(_inversions(y_code[order], None, g, 1)[0])
    order = _lexsort(p_code, y_code)
    discordant = _inversions(p_code[order], None if w is None else w[order], g[order], G)
    tied_in_both = _pairs_in_runs(_dense_ranks(y_code * (int(p_code.max()) + 1) + p_code), w, g, G)
    tied = _pairs_in_runs(p_code, w, g, G) - tied_in_both
    pairs = _pairs_in_runs(g, w, g, G) - _pairs_in_runs(y_code, w, g, G)
    total: Counts = (discordant.sum().item(), tied.sum().item(), pairs.sum().item())
    if reference:
        return (concordant, total[1], n * (n - 1) // 2), None
    if group is None:
        return total, None
    has_pair = pairs > 0
    d, t, m = (x[has_pair].double() for x in (discordant, tied, pairs))
    return total, (int(has_pair.sum()), float(((m - t - d) / m).sum()), float((t / m).sum()))


def _check(y: Tensor, prediction: Tensor, weight: Tensor | None, group: Tensor | None) -> None:
    """As `_validation.arrays`, on the tensors' device."""
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


def _dense_ranks(x: Tensor) -> Tensor:
    return torch.unique(x, return_inverse=True)[1]


def _ranks_by_group(g: Tensor, code: Tensor) -> Tensor:
    """Dense ranks of (group, code)."""
    return _dense_ranks(g * (int(code.max()) + 1) + code)


def _lexsort(second: Tensor, first: Tensor) -> Tensor:
    """The order by (first, second)."""
    order = torch.argsort(second, stable=True)
    return order[torch.argsort(first[order], stable=True)]


def _pairs_in_runs(code: Tensor, w: Tensor | None, g: Tensor, G: int) -> Tensor:
    """[G]: pairs of rows with the same code, which lies in one group: n (n - 1) / 2, or ((sum w)^2 - sum w^2) / 2."""
    C = int(code.max()) + 1
    group_of_code = torch.zeros(C, dtype=torch.int64, device=g.device).scatter_(0, code, g)
    if w is None:
        n = torch.zeros(C, dtype=torch.int64, device=g.device).scatter_add_(0, code, torch.ones_like(code))
        pairs = n * (n - 1) // 2
    else:
        total, squares = (torch.zeros(C, dtype=w.dtype, device=w.device).scatter_add_(0, code, x) for x in (w, w * w))
        pairs = (total * total - squares).clamp(min=0) / 2
    return torch.zeros(G, dtype=pairs.dtype, device=g.device).scatter_add_(0, group_of_code, pairs)


def _inversions(code: Tensor, weight: Tensor | None, g: Tensor, G: int) -> Tensor:
    """[G]: pairs i < j of a group with code_i > code_j, or the sums of their w_i w_j; groups one after another, in codes as in rows.

    One pass per bit of the rank, as `reference.xauc.inversions`.
    """
    n, device = len(code), code.device
    rank = torch.empty_like(code)
    rank[torch.argsort(code, stable=True)] = torch.arange(n, device=device)
    w, position = weight, torch.arange(n, device=device)  # groups' ranks lie where their rows do
    out = torch.zeros(G, dtype=torch.int64 if w is None else w.dtype, device=device)
    for bit in range(max(n - 1, 0).bit_length() - 1, -1, -1):
        one = (rank >> bit) & 1
        start = (rank >> (bit + 1)) << (bit + 1)
        ones = torch.nn.functional.pad(one.cumsum(0), (1, 0))
        ones_before = ones[position] - ones[start]
        if w is None:
            found = ones_before * (1 - one)
        else:
            weight_of_ones = torch.nn.functional.pad((one * w).cumsum(0), (1, 0))
            found = w * (weight_of_ones[position] - weight_of_ones[start]) * (1 - one)
        out.scatter_add_(0, g[rank], found)
        to = torch.where(one == 1, start + (1 << bit) + ones_before, position - ones_before)
        rank = torch.empty_like(rank).scatter_(0, to, rank)
        if w is not None:
            w = torch.empty_like(w).scatter_(0, to, w)
    return out

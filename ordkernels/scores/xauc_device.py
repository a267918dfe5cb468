"""XAUC's counts of pairs by torch's own sorts and sums, on the tensors' device: as `reference.xauc`, within groups."""

import torch
from torch import Tensor

__all__ = ["count"]

Counts = tuple[float, float, float, float]


def count(
    y: Tensor, prediction: Tensor, weight: Tensor | None, group: Tensor | None, reference: bool
) -> tuple[Counts, tuple[int, float, float] | None]:
    """[N] each -> (concordant, for `reference` by its rule for ties, tied in the prediction, pairs of different y, tied in both); and,
    with groups: how many have a pair, the sums of concordant / pairs and tied / pairs."""
    _check(y, prediction, weight, group)
    w = torch.ones_like(y, dtype=torch.int64) if weight is None else weight.double()
    g = torch.zeros(len(y), dtype=torch.int64, device=y.device) if group is None else _dense_ranks(group)
    G = int(g.max()) + 1
    a, b = _dense_ranks(y, g), _dense_ranks(prediction, g)

    def pairs_of(code: Tensor, *keys: Tensor) -> Tensor:
        order = _lexsort(*keys)
        return _inversions(code[order], w[order], g[order], G)

    discordant, tied = pairs_of(a, b, a), pairs_of(_dense_ranks(a, b), b, -a)
    concordant = pairs_of(a, g, -b, a)
    pairs = concordant + tied + discordant
    rows, both = torch.arange(len(y), device=y.device), _dense_ranks(a, b)
    tied_both = pairs_of(_dense_ranks(-rows, both), both, rows)
    found = _inversions(a[torch.argsort(-b, stable=True)], w, g, G) if reference else concordant
    total: Counts = (found.sum().item(), tied.sum().item(), pairs.sum().item(), tied_both.sum().item())
    if group is None:
        return total, None
    has_pair = pairs > 0
    c, t, m = (x[has_pair].double() for x in (concordant, tied, pairs))
    return total, (int(has_pair.sum()), float((c / m).sum()), float((t / m).sum()))


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


def _dense_ranks(x: Tensor, first: Tensor | None = None) -> Tensor:
    """Of x, or of (first, x), `first` dense ranks."""
    rank = torch.unique(x, return_inverse=True)[1]
    return rank if first is None else torch.unique(first * (int(rank.max()) + 1) + rank, return_inverse=True)[1]


def _lexsort(*keys: Tensor) -> Tensor:
    """The order by keys, the first before all."""
    order = torch.argsort(keys[-1], stable=True)
    for key in reversed(keys[:-1]):
        order = order[torch.argsort(key[order], stable=True)]
    return order


def _inversions(code: Tensor, w: Tensor, g: Tensor, G: int) -> Tensor:
    """[G]: sums of w_i w_j over the pairs i < j of a group with code_i > code_j; groups one after another, in codes as in rows.

    One pass per bit of the rank, as `reference.xauc.inversions`: sums within blocks, and nothing is subtracted from them.
    """
    n, device = len(code), code.device
    bits = max(n - 1, 0).bit_length()
    rank = torch.arange(1 << bits, device=device)
    rank[torch.argsort(code, stable=True)] = torch.arange(n, device=device)
    w, g = (torch.nn.functional.pad(x, (0, (1 << bits) - n)) for x in (w, g))  # groups' ranks lie where their rows do
    out = torch.zeros(G, dtype=w.dtype, device=device)
    for bit in range(bits - 1, -1, -1):
        one = ((rank >> bit) & 1).view(-1, 2 << bit)
        block = w.view(-1, 2 << bit)
        found = (1 - one) * block * (one * block).cumsum(1)
        out.scatter_add_(0, g[rank], found.reshape(-1))
        order = (torch.argsort(one, dim=1, stable=True) + torch.arange(len(one), device=device)[:, None] * (2 << bit)).reshape(-1)
        rank, w = rank[order], w[order]
    return out

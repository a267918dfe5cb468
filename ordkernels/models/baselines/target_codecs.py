"""How published models turn a network's outputs into a number, and targets into labels for it: CREAD, TPM, WLR, EGMN, D2Q.

Plain torch, differentiable, any float dtype; they compile without graph breaks. None is registered as a kernel: next to the
network that feeds them they are 2 % of scoring or less (the tree of 32 leaves, the slowest, takes 0.8 microseconds a row eager and
0.4 compiled on one core; the smallest encoder here takes 40), and CREAD's is one matrix-vector product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..._validation.numbers import integer
from ..._validation.tensors import boolean, can_read_values, dims, floating, same, shape
from .._checks import check_nonnegative

__all__ = [
    "DurationQuantiles",
    "adaptive_edges",
    "mixture_mean",
    "mixture_nll",
    "odds_weights",
    "quantiles_of",
    "survival_expectation",
    "survival_labels",
    "tree_expectation",
    "tree_labels",
    "tree_leaves",
]

# ---------------------------------------------------------------------------------------------------- CREAD, SWaT


def survival_expectation(survival: Tensor, edges: Tensor) -> Tensor:
    """The number that probabilities of exceeding each threshold stand for: ``sum_m P(y > c_m) (c_m - c_{m-1})``.

    Args:
        survival: ``[..., M]``, ``P(y > c_m)`` for m = 1..M.
        edges: ``[M+1]``, ``c_0 <= c_1 <= ... <= c_M``, in y's unit.

    Returns:
        ``[...]``: y less ``c_0``. An interval between equal edges adds nothing.

    Raises:
        TypeError, ValueError: not floating tensors of one dtype; shapes that do not fit; falling or NaN edges.

    Source: CREAD (Sun et al., AAAI 2024), SWaT (Yang et al., 2024). A right-hand sum: below the mean by up to one interval.

    Example:
        >>> survival_expectation(torch.tensor([0.9, 0.5]), torch.tensor([0.0, 2.0, 10.0]))
        tensor(5.8000)
    """
    floating("survival", survival)
    same("edges", edges, "survival", survival)
    if not survival.dim():
        raise ValueError("survival: expected [..., M], got 0 dimensions")
    shape("edges", edges, [survival.shape[-1] + 1], "[M+1]")
    _rising("edges", edges)
    return survival @ edges.diff()


def survival_labels(y: Tensor, edges: Tensor) -> Tensor:
    """CREAD's labels ``1[y > c_m]``, ``[B, M]``, of targets ``[B]`` and edges ``[M+1]``.

    ``survival_expectation`` of them is the largest edge below y (0 for none), less ``c_0``.

    Args:
        y: as above.
        edges: rising, equal ones allowed.

    Raises:
        TypeError, ValueError: as `survival_expectation`.

    Example:
        >>> survival_labels(torch.tensor([1.0, 5.0]), torch.tensor([0.0, 2.0, 10.0]))
        tensor([[0., 0.],
                [1., 0.]])
    """
    floating("y", y)
    dims("y", y, [1], "[B]")
    same("edges", edges, "y", y)
    _rising("edges", edges)
    return (y[:, None] > edges[1:]).to(y.dtype)


def adaptive_edges(y: Tensor, intervals: int, alpha: float = 2.0) -> Tensor:
    """CREAD's error-adaptive edges ``[M+1]``: quantiles of the training targets at ``(1 - e^(-alpha m/M)) / (1 - e^(-alpha))``.

    ``alpha = 0``: M intervals of equal mass, whose error is that of restoring a number from the widest. Larger: more edges in
    the tail, towards intervals of equal width (exactly so for an exponential y as alpha grows), each learnt from fewer rows.
    ``c_0 = 0``. Where many targets are equal, so are edges.

    Args:
        y: ``[N]``, at least 0.
        intervals: M, at least 1.
        alpha: at least 0.

    Raises:
        TypeError, ValueError: y not floating, empty, negative, NaN or infinite; a count or alpha out of range.

    Source: CREAD (Sun et al., AAAI 2024), the EAD discretisation.

    Example:
        >>> adaptive_edges(torch.arange(101.0), 4, alpha=0)
        tensor([  0.,  25.,  50.,  75., 100.])
    """
    _targets("y", y)
    integer("intervals", intervals, least=1)
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha: expected a finite number of at least 0, got {alpha}")
    z = torch.linspace(0, 1, intervals + 1, dtype=torch.float64, device=y.device)
    levels = torch.expm1(-alpha * z) / math.expm1(-alpha) if alpha else z
    edges = quantiles_of(y.detach(), levels)
    edges[0] = 0
    return edges.to(y.dtype)


# ---------------------------------------------------------------------------------------------------- TPM


def tree_leaves(logits: Tensor) -> Tensor:
    """Probabilities ``[..., L]`` of a full binary tree's leaves: products, along each path, of its nodes' probabilities.

    Args:
        logits: ``[..., L-1]``, L a power of two: of going right at each node, level by level from the root.

    Raises:
        TypeError, ValueError: logits that are not floating, or not one fewer than a power of two.

    Source: TPM (Lin et al., KDD 2023).

    Example:
        >>> tree_leaves(torch.zeros(3))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    floating("logits", logits)
    depth = _depth("logits", (logits.shape[-1] if logits.dim() else 0) + 1)
    left, right = torch.sigmoid(-logits), torch.sigmoid(logits)  # not 1 - sigmoid, which cancels
    p = torch.ones_like(logits[..., :1])
    for level in range(depth):
        nodes = slice(2**level - 1, 2 ** (level + 1) - 1)
        p = torch.stack((p * left[..., nodes], p * right[..., nodes]), dim=-1).flatten(-2)  # [..., 2^(level + 1)]
    return p


def tree_expectation(logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance ``[...]`` of the values ``[L]`` of a tree's leaves, under `tree_leaves`.

    Args:
        logits: as in `tree_leaves`.
        values: of the leaves.

    Raises:
        TypeError, ValueError: as `tree_leaves`; values of another dtype or length.

    Source: TPM (Lin et al., KDD 2023), whose loss also takes the variance.

    Example:
        >>> tree_expectation(torch.zeros(1), torch.tensor([1.0, 3.0]))
        (tensor(2.), tensor(1.))
    """
    p = tree_leaves(logits)
    same("values", values, "logits", logits)
    shape("values", values, [p.shape[-1]], "[L]")
    mean = p @ values
    return mean, (p * (values - mean[..., None]).square()).sum(dim=-1)


def tree_labels(y: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """The turns that lead to y's leaf, and the nodes where they are taken: both ``[B, L-1]``, in `tree_leaves`' order.

    The first is 1 for right and 0 for left (and 0 off the path), the second 1 on the path and 0 off it.

    Args:
        y: ``[B]``.
        edges: ``[L+1]``, rising, equal ones allowed: leaf l has ``e_l <= y < e_{l+1}``, the end leaves are open.

    Raises:
        TypeError, ValueError: not floating tensors of one dtype; L not a power of two; falling or NaN edges.

    Example:
        >>> tree_labels(torch.tensor([7.0]), torch.tensor([0.0, 1, 5, 9, 20]))  # the third of four leaves
        (tensor([[1., 0., 0.]]), tensor([[1., 0., 1.]]))
    """
    floating("y", y)
    dims("y", y, [1], "[B]")
    same("edges", edges, "y", y)
    dims("edges", edges, [1], "[L+1]")
    depth = _depth("edges", len(edges) - 1)
    _rising("edges", edges)
    leaf = torch.searchsorted(edges[1:-1].contiguous(), y.contiguous(), right=True)[:, None]
    turns, path = [], []
    for level in range(depth):
        on = leaf >> (depth - level) == torch.arange(2**level, device=y.device)  # [B, 2^level]
        path.append(on)
        turns.append(on & ((leaf >> (depth - level - 1)) & 1).bool())
    return torch.cat(turns, dim=1).to(y.dtype), torch.cat(path, dim=1).to(y.dtype)


# ---------------------------------------------------------------------------------------------------- WLR


def odds_weights(y: Tensor, positive: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weights ``[B]`` of each row as a positive and as a negative, such that a logistic regression's odds become watch times.

    With ``positive [B]`` (bool: clicked, played to the end): positives weigh y, the others 1. The odds are then
    ``E[y; positive] / P(not positive)``, near ``E[y]`` only where positives are rare. Without: every row is both, with y and
    with 1, and the odds are ``E[y]``. The prediction is ``exp(logit)``.

    Args:
        y: ``[B]``, at least 0.
        positive: as above.

    Raises:
        TypeError, ValueError: y not floating, negative, NaN or infinite; positive of another shape or dtype.

    Source: Covington et al., RecSys 2016, section 4.2. Every row as both is a deviation from it, for logs without clicks.

    Example:
        >>> odds_weights(torch.tensor([7.0, 3.0]), torch.tensor([True, False]))
        (tensor([7., 0.]), tensor([0., 1.]))
    """
    _targets("y", y, least=0, sync=False)
    if positive is None:
        return y, torch.ones_like(y)
    boolean("positive", positive)
    shape("positive", positive, y.shape, "[B]")
    return torch.where(positive, y, 0), (~positive).to(y.dtype)


# ---------------------------------------------------------------------------------------------------- EGMN


def mixture_mean(logits: Tensor, scale: Tensor, mu: Tensor) -> Tensor:
    """Mean ``[...]`` of a mixture of one exponential and K Gaussians: ``w_0 scale + sum_k w_k mu_k``, ``w = softmax(logits)``.

    Args:
        logits: ``[..., K+1]``, the exponential's first.
        scale: ``[...]``, the exponential's mean.
        mu: ``[..., K]``, the Gaussians' means.

    Raises:
        TypeError, ValueError: not floating tensors of one dtype; shapes that do not fit.

    Source: EGMN (Zhao et al., RecSys 2025).

    Example:
        >>> mixture_mean(torch.zeros(2), torch.tensor(2.0), torch.tensor([10.0]))
        tensor(6.)
    """
    _mixture(logits, scale, mu)
    return (logits.softmax(dim=-1) * torch.cat((scale[..., None], mu), dim=-1)).sum(dim=-1)


def mixture_nll(y: Tensor, logits: Tensor, scale: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """Negative log-likelihood ``[...]`` of ``y >= 0`` under the mixture of `mixture_mean`.

    Args:
        y: ``[...]``.
        logits: as in `mixture_mean`.
        scale: as in `mixture_mean`.
        mu: as in `mixture_mean`.
        sigma: ``[..., K]``, above 0.

    Raises:
        TypeError, ValueError: as `mixture_mean`.

    Source: EGMN (Zhao et al., RecSys 2025).

    Example:
        >>> mixture_nll(torch.tensor(0.0), torch.zeros(2), torch.tensor(1.0), torch.tensor([9.0]), torch.tensor([0.1]))
        tensor(0.6931)
    """
    _mixture(logits, scale, mu)
    same("sigma", sigma, "logits", logits)
    shape("sigma", sigma, mu.shape, "[..., K]")
    same("y", y, "logits", logits)
    shape("y", y, scale.shape, "[...]")
    exponential = -y / scale - scale.log()
    gaussian = -0.5 * ((y[..., None] - mu) / sigma).square() - sigma.log() - 0.5 * math.log(2 * math.pi)
    return -torch.logsumexp(F.log_softmax(logits, dim=-1) + torch.cat((exponential[..., None], gaussian), dim=-1), dim=-1)


# ---------------------------------------------------------------------------------------------------- D2Q


class DurationQuantiles(nn.Module):
    """D2Q's labels: a target's rank, in [0, 1], among the training targets of videos of about its duration; and their inverse.

    Groups hold equal shares of the training rows by duration (equal edges merge into one group); each has a table of ``knots``
    quantiles, read with linear interpolation both ways. A value at several knots has their middle rank, so
    ``inverse(forward(y, d), d) = y`` within a group's range. Values outside it go to its ends.

    Args:
        groups: of durations.
        knots: quantiles of a group.

    Raises:
        ValueError: fewer than 1 group or 2 knots.

    Source: D2Q (Zhan et al., KDD 2022).

    Example:
        >>> table = DurationQuantiles(groups=2, knots=3)
        >>> table.fit(torch.tensor([0.0, 4.0, 8.0, 10.0]), torch.tensor([5.0, 5.0, 60.0, 60.0]))
        >>> table(torch.tensor([2.0, 10.0]), torch.tensor([5.0, 60.0]))
        tensor([0.5000, 1.0000])
    """

    starts: Tensor  # [G-1]: the least duration of each group but the first
    values: Tensor  # [G, Q]

    def __init__(self, groups: int = 30, knots: int = 100) -> None:
        super().__init__()
        integer("groups", groups, least=1)
        integer("knots", knots, least=2)
        self.register_buffer("starts", torch.linspace(0, 1, groups)[1:])
        self.register_buffer("values", torch.linspace(0, 1, knots).expand(groups, knots).clone())

    def fit(self, y: Tensor, duration: Tensor) -> None:
        """Takes the tables from training rows ``[N]``."""
        _targets("y", y)
        _targets("duration", duration)
        shape("duration", duration, y.shape, "[N]")
        G, Q = self.values.shape
        levels = torch.linspace(0, 1, Q, dtype=torch.float64, device=y.device)
        shares = torch.arange(1, G, dtype=torch.float64, device=y.device) / G
        self.starts.copy_(quantiles_of(duration.detach(), shares))
        group = self.group(duration)
        for g in range(G):  # a group without rows is never looked up by a training duration; others fall to all rows' table
            rows = y.detach()[group == g]
            self.values[g] = quantiles_of(rows if len(rows) else y.detach(), levels).to(self.values)

    def group(self, duration: Tensor) -> Tensor:
        """``[B]`` int64."""
        floating("duration", duration)
        return torch.searchsorted(self.starts, duration.to(self.starts.dtype).contiguous(), right=True)

    def forward(self, y: Tensor, duration: Tensor) -> Tensor:
        """Ranks ``[B]`` of targets ``[B]``."""
        table, y = self._tables("y", y, duration), y.to(self.values.dtype)[:, None].contiguous()
        Q = table.shape[1]
        first, after = torch.searchsorted(table, y), torch.searchsorted(table, y, right=True)  # [B, 1]
        i = first.clamp(1, Q - 1)
        low, high = table.gather(1, i - 1), table.gather(1, i)
        rank = i - 1 + ((y - low) / torch.where(high > low, high - low, 1)).clamp(0, 1)
        return (torch.where(after > first, (first + after - 1) / 2, rank) / (Q - 1))[:, 0]

    def inverse(self, rank: Tensor, duration: Tensor) -> Tensor:
        """Values ``[B]`` at ranks ``[B]``."""
        table = self._tables("rank", rank, duration)
        at = rank.to(self.values.dtype).clamp(0, 1)[:, None] * (table.shape[1] - 1)
        i = at.detach().long().clamp(0, table.shape[1] - 2)
        return torch.lerp(table.gather(1, i), table.gather(1, i + 1), at - i)[:, 0]

    def _tables(self, name: str, x: Tensor, duration: Tensor) -> Tensor:
        floating(name, x)
        dims(name, x, [1], "[B]")
        group = self.group(duration)
        shape("duration", duration, x.shape, "[B]")
        return self.values[group]  # [B, Q]


# ---------------------------------------------------------------------------------------------------- checks


def _rising(name: str, edges: Tensor) -> None:
    dims(name, edges, [1], "[M+1]")
    if len(edges) < 2:
        raise ValueError(f"{name}: expected at least 2, got {len(edges)}")
    if can_read_values(edges) and not bool((edges.diff() >= 0).all()):
        raise ValueError(f"{name}: expected rising numbers, got {edges.tolist()[:8]}")


def _depth(name: str, leaves: int) -> int:
    depth = leaves.bit_length() - 1
    if depth < 1 or leaves != 1 << depth:
        raise ValueError(f"{name}: expected those of 2, 4, 8, ... leaves, got {leaves} leaves")
    return depth


def _targets(name: str, y: Tensor, least: int = 1, sync: bool = True) -> None:
    """sync: read the values on a GPU too, and wait for it; a loss does not."""
    floating(name, y)
    dims(name, y, [1], "[N]")
    if len(y) < least:
        raise ValueError(f"{name}: expected at least one value, got none")
    if sync or can_read_values(y):
        check_nonnegative(name, y)


def _mixture(logits: Tensor, scale: Tensor, mu: Tensor) -> None:
    floating("logits", logits)
    if not logits.dim() or logits.shape[-1] < 2:
        raise ValueError(f"logits: expected [..., K+1] with K of at least 1, got {list(logits.shape)}")
    same("scale", scale, "logits", logits)
    same("mu", mu, "logits", logits)
    shape("scale", scale, logits.shape[:-1], "[...]")
    shape("mu", mu, (*logits.shape[:-1], logits.shape[-1] - 1), "[..., K]")


def quantiles_of(y: Tensor, levels: Tensor) -> Tensor:
    """fp64, by linear interpolation; torch.quantile takes no more than 16 million values."""
    at = levels * (len(y) - 1)
    low = at.long()
    y = y.double().sort().values
    return torch.lerp(y[low], y[(low + 1).clamp(max=len(y) - 1)], at - low)

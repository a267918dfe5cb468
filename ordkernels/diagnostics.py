"""The theory of DiffoR and GR as cheap measurements: gradient conflict, ranks, oracle and fused predictions, error bounds.

Tensors, NumPy arrays and lists are taken; results are tensors.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ._validation import arrays
from ._validation import tensors as checks
from ._validation.numbers import number, python_scalar, real

__all__ = [
    "OracleResult",
    "decode_ordinal",
    "effective_rank",
    "fuse_times",
    "gradient_conflict",
    "min_variance_weights",
    "oracle_time",
    "ordinal_error_bound",
    "stable_rank",
    "value_embedding",
]


class OracleResult(NamedTuple):
    """``prediction [B]``, and ``time [B]`` int64, the index of the chosen prediction among the M."""

    prediction: Tensor
    time: Tensor


def gradient_conflict(losses: Sequence[Tensor] | Tensor, params: Iterable[Tensor]) -> Tensor:
    r"""Pairwise cosines of the losses' gradients: below zero where two losses pull shared parameters apart.

    .. math:: c_{ij} = \frac{\langle \nabla L_i, \nabla L_j \rangle}{\|\nabla L_i\| \|\nabla L_j\|}

    Args:
        losses: M scalars, or one tensor ``[M]``; their graph is retained.
        params: the shared parameters; where a loss does not depend on one, its gradient counts as zero.

    Returns:
        ``[M, M]``, ones on the diagonal; 0 where a gradient is zero.

    Raises:
        ValueError: no losses, no parameters that need a gradient, or a loss that is not a scalar.

    Source: DiffoR, appendix B.5.1, proposition 4 and assumption 2.

    Example:
        >>> import torch
        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> gradient_conflict([p.sum(), -p.sum(), p[0]], [p])
        tensor([[ 1.0000, -1.0000,  0.7071],
                [-1.0000,  1.0000, -0.7071],
                [ 0.7071, -0.7071,  1.0000]])
    """
    shared = [p for p in params if p.requires_grad]
    if not shared:
        raise ValueError("params: expected at least one parameter that needs a gradient, got none")
    if not len(losses):
        raise ValueError("losses: expected at least one, got none")
    rows = []
    for i, loss in enumerate(losses):
        if loss.dim():
            raise ValueError(f"losses: expected scalars, got shape {list(loss.shape)} at index {i}")
        grads = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, shared, strict=True)]))
    G = torch.stack(rows)  # [M, P]
    norm = G.norm(dim=1)
    unit = G / torch.where(norm > 0, norm, 1.0)[:, None]
    return (unit @ unit.T).clamp(-1, 1).fill_diagonal_(1.0)


def effective_rank(H: Tensor) -> Tensor:
    r"""How many directions a matrix of representations uses, between 1 and its rank.

    .. math:: \exp\Big(-\sum_i p_i \ln p_i\Big), \quad p_i = \sigma_i / \sum_j \sigma_j

    with ``sigma`` the singular values.

    Args:
        H: ``[N, D]``.

    Returns:
        A scalar; 0 for a matrix of zeros or without rows.

    Raises:
        ValueError: not a matrix.

    Source: Roy and Vetterli, "The Effective Rank", 2007; DiffoR, appendix B.5.3.

    Example:
        >>> import torch
        >>> effective_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
        tensor(2.8284)
    """
    s = _singular_values(H)
    p = s / torch.where(s.sum() > 0, s.sum(), 1.0)
    return torch.where(s.sum() > 0, torch.exp(torch.special.entr(p).sum()), 0.0)


def stable_rank(H: Tensor) -> Tensor:
    r"""``||H||_F^2 / ||H||_2^2``: a lower bound of a matrix's rank that small singular values hardly change.

    Args:
        H: ``[N, D]``.

    Returns:
        A scalar; 0 for a matrix of zeros or without rows.

    Raises:
        ValueError: not a matrix.

    Source: DiffoR, appendix B.5.3.

    Example:
        >>> import torch
        >>> stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
        tensor(1.5000)
    """
    s2 = _singular_values(H).square()
    top = s2.amax() if s2.numel() else s2.sum()
    return torch.where(top > 0, s2.sum() / torch.where(top > 0, top, 1.0), 0.0)


def oracle_time(y: Tensor, yhat: Tensor) -> OracleResult:
    """For each row the best of M predictions in hindsight: ``argmin_m |y - yhat_m|``, the first among equals.

    Args:
        y: ``[B]``.
        yhat: ``[B, M]``, one prediction per denoising time.

    Returns:
        ``OracleResult(prediction [B], time [B])``: no rule that picks one of the M can have a smaller error.

    Raises:
        ValueError: shapes that disagree, or M = 0.

    Source: DiffoR, appendix B.6.1, eq. 57.

    Example:
        >>> import torch
        >>> oracle_time(torch.tensor([1.0, 5.0]), torch.tensor([[0.0, 1.5], [5.0, 9.0]]))
        OracleResult(prediction=tensor([1.5000, 5.0000]), time=tensor([1, 0]))
    """
    yhat, y = _predictions(yhat, _numbers("y", y))
    index = (yhat - y[:, None]).abs().argmin(dim=1)
    return OracleResult(yhat.gather(1, index[:, None])[:, 0], index)


def fuse_times(
    yhat: Tensor, weights: Tensor | Sequence[float] | Literal["min_variance"] = "min_variance", *, y: Tensor | None = None
) -> Tensor:
    r"""A weighted mean of M predictions per row, ``sum_m a_m yhat_m`` with ``sum_m a_m = 1``.

    Args:
        yhat: ``[B, M]``.
        weights: ``[M]``, or ``"min_variance"``: ``min_variance_weights(yhat, y)``.
        y: ``[B]``, for ``"min_variance"``.

    Returns:
        ``[B]``.

    Raises:
        ValueError: shapes that disagree, M = 0, or weights that do not sum to 1.

    Source: DiffoR, appendix B.6.1, eq. 60.

    Example:
        >>> import torch
        >>> fuse_times(torch.tensor([[0.0, 4.0], [1.0, 2.0]]), [0.25, 0.75])
        tensor([3.0000, 1.7500])
    """
    yhat, y = _predictions(yhat, y)
    weights = python_scalar(weights)
    if isinstance(weights, str):
        if weights != "min_variance":
            raise ValueError(f"weights: expected 'min_variance' or M numbers, got {weights!r}")
        return yhat @ min_variance_weights(yhat, y)
    a = _numbers("weights", weights).to(yhat)
    if list(a.shape) != [yhat.shape[1]]:
        raise ValueError(f"weights: expected shape [M] = [{yhat.shape[1]}], got {list(a.shape)}")
    if not abs(float(a.sum()) - 1) < 1e-3:
        raise ValueError(f"weights: expected a sum of 1, got {float(a.sum())}")
    return yhat @ a


def min_variance_weights(yhat: Tensor, y: Tensor | None = None, *, ridge: float = 1e-6) -> Tensor:
    r"""The weights of sum 1 for which the weighted mean of M unbiased predictions has the least variance.

    .. math:: a = \frac{\Sigma^{-1} 1}{1^\top \Sigma^{-1} 1}

    with ``Sigma`` the covariance over the rows of the errors ``yhat_m - y``, or, without ``y``, of the predictions
    themselves: for predictions ``signal + error`` with errors that do not depend on the signal, the signal adds the same
    constant to every entry and leaves the weights as they are.

    Args:
        yhat: ``[B, M]``.
        y: ``[B]``.
        ridge: added to Sigma's diagonal, relative to its mean, so that equal predictions do not make it singular.

    Returns:
        ``[M]``; equal weights for fewer than two rows.

    Raises:
        ValueError: shapes that disagree, or M = 0.

    Source: DiffoR, appendix B.6.1, theorem 20.

    Example:
        >>> import torch
        >>> e = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [1.0, -2.0], [-1.0, -2.0]])
        >>> min_variance_weights(e, torch.zeros(4))
        tensor([0.8000, 0.2000])
    """
    yhat, y = _predictions(yhat, y)
    ridge = real("ridge", ridge, least=0)
    B, M = yhat.shape
    if B < 2:
        return yhat.new_full((M,), 1 / M)
    e = yhat if y is None else yhat - y[:, None]
    e = (e - e.mean(dim=0)).double()
    cov = e.T @ e / (B - 1)
    scale = cov.diagonal().mean()
    cov = cov + (ridge * scale + (scale == 0)) * torch.eye(M, dtype=cov.dtype, device=cov.device)
    a = torch.linalg.solve(cov, cov.new_ones(M))
    return (a / a.sum()).to(yhat.dtype)


def ordinal_error_bound(loss_t: Tensor | float, alphabar_t: Tensor | float, gap: Tensor | float) -> Tensor:
    r"""An upper bound of the share of rows decoded to a wrong class, from the noise loss at one diffusion time.

    .. math:: \Pr(\hat c \ne c) \le \frac{4 (1 - \bar\alpha_t)}{\bar\alpha_t\, \Delta^2}\, L_t

    Args:
        loss_t: mean squared error of the predicted noise at t.
        alphabar_t: in (0, 1].
        gap: the least distance between two thresholds, above 0. All are numbers or tensors that broadcast.

    Returns:
        The bound, of the broadcast shape.

    Raises:
        ValueError: for a Python number out of range.

    Source: DiffoR, appendix B.5.2, eq. 52.

    Example:
        >>> ordinal_error_bound(0.01, 0.8, 0.5)
        tensor(0.0400)
    """
    tensors = []
    for name, value, ok, expected in (
        ("loss_t", loss_t, lambda v: v >= 0, "a loss of at least 0"),
        ("alphabar_t", alphabar_t, lambda v: 0 < v <= 1, "a number in (0, 1]"),
        ("gap", gap, lambda v: v > 0, "a distance above 0"),
    ):
        if isinstance(value, Tensor):
            tensors.append(_numbers(name, value))
            continue
        plain = number(name, value, "a number or a tensor")
        if not ok(plain):
            raise ValueError(f"{name}: expected {expected}, got {plain}")
        tensors.append(torch.tensor(plain))
    loss, ab, d = tensors
    return 4 * (1 - ab) / (ab * d * d) * loss


def decode_ordinal(y: Tensor, thresholds: Tensor | Sequence[float]) -> Tensor:
    """Classes ``0 .. C - 1`` of continuous predictions: class j where ``thresholds[j - 1] < y <= thresholds[j]``.

    Args:
        y: any shape.
        thresholds: ``[C - 1]``, ascending.

    Returns:
        int64 like y; -1 where y is NaN.

    Raises:
        ValueError: thresholds that are not a strictly ascending vector.

    Source: DiffoR, appendix B.3, assumption 4.

    Example:
        >>> import torch
        >>> decode_ordinal(torch.tensor([0.2, 0.5, 7.0]), [0.5, 1.5])
        tensor([0, 0, 2])
    """
    y = _numbers("y", y)
    cuts = _numbers("thresholds", thresholds).to(y)
    if cuts.dim() != 1 or not bool((cuts.diff() > 0).all()):
        raise ValueError(f"thresholds: expected a strictly ascending vector, got {cuts.tolist()}")
    return torch.where(y.isnan(), -1, torch.bucketize(y.contiguous(), cuts))


def value_embedding(tokens: Tensor, values: Tensor, E: Tensor) -> Tensor:
    r"""The embedding of a number written in value tokens: its tokens' embeddings, weighted by their share of the number.

    .. math:: e_i = \sum_t r_t E[s_t], \quad r_t = g(s_t) / \sum_{t'} g(s_{t'})

    Args:
        tokens: ``[B, T]`` int; special tokens have value 0 and so no share.
        values: ``[V]``, the tokens' values g.
        E: ``[V, d]``.

    Returns:
        ``[B, d]``; zeros for the number 0.

    Raises:
        ValueError: shapes that disagree.

    Source: GR, eq. 10.

    Example:
        >>> import torch
        >>> value_embedding(torch.tensor([[3, 4, 2]]), torch.tensor([0.0, 0.0, 0.0, 6.0, 2.0]), torch.eye(5))
        tensor([[0.0000, 0.0000, 0.0000, 0.7500, 0.2500]])
    """
    tokens, values, E = checks.integers("tokens", tokens), _numbers("values", values), _numbers("E", E)
    checks.with_values("tokens", tokens)
    checks.floating("E", E)
    if tokens.dim() != 2:
        raise ValueError(f"tokens: expected [B, T], got {list(tokens.shape)}")
    if E.dim() != 2 or list(values.shape) != [E.shape[0]]:
        raise ValueError(f"values: expected [V] with E [V, d] = {list(E.shape)}, got {list(values.shape)}")
    outside = (tokens < 0) | (tokens >= len(values))
    if bool(outside.any()):
        raise ValueError(f"tokens: expected 0 to {len(values) - 1}, got {int(tokens[outside][0])}")
    g = values[tokens.long()].to(E.dtype)  # [B, T]
    total = g.sum(dim=1, keepdim=True)
    share = g / torch.where(total > 0, total, 1.0)
    return torch.bmm(share[:, None], E[tokens.long()])[:, 0]


def _singular_values(H: Any) -> Tensor:
    H = _numbers("H", H)
    if H.dim() != 2:
        raise ValueError(f"H: expected [N, D], got {list(H.shape)}")
    if not bool(torch.isfinite(H).all()):
        raise ValueError("H: expected finite numbers, got NaN or infinity")
    return torch.linalg.svdvals(H if H.dtype == torch.float64 else H.float())


def _numbers(name: str, x: Any) -> Tensor:
    """A tensor of floats, or of integers that a caller converts, from anything that holds numbers."""
    t: Tensor = arrays.as_tensor(name, x)
    checks.with_values(name, t)
    if t.is_complex() or t.dtype == torch.bool or (t.is_floating_point() and t.dtype not in checks.FLOATS):
        raise TypeError(f"{name}: expected integers or floats of 16 to 64 bits, got {t.dtype}")
    return t


def _predictions(yhat: Any, y: Any) -> tuple[Tensor, Any]:
    yhat, y = _numbers("yhat", yhat), y if y is None else _numbers("y", y)
    if yhat.dim() != 2 or not yhat.shape[1]:
        raise ValueError(f"yhat: expected [B, M] with M of at least 1, got {list(yhat.shape)}")
    if y is not None and list(y.shape) != [yhat.shape[0]]:
        raise ValueError(f"y: expected [B] = [{yhat.shape[0]}], got {list(y.shape)}")
    return yhat, y

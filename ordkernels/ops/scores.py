"""Scores of predictions: errors, the order of pairs, and distributions.

They take lists, NumPy arrays and torch tensors (of any device; counted on the CPU), in any numeric dtype, and compute in fp64.
`crps` and `pinball` are losses as well: tensors stay where they are, come back as tensors, and have gradients.
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._backend import OpInfo, host_choice, register
from ..reference import scores as reference

__all__ = [
    "XAUCResult", "auc", "coverage", "crps", "cumulative_score", "histogram_jsd", "lcc", "mae", "pinball", "relaimpr", "rmse", "srcc",
    "xauc",
]  # fmt: skip

_OPS = {
    name: register(OpInfo(name, host=True, native=False))
    for name in ("auc", "coverage", "crps", "cumulative_score", "histogram_jsd", "lcc", "mae", "pinball", "rmse", "srcc", "xauc")
}


class XAUCResult(NamedTuple):
    """value = (concordant + tied_prediction / 2) / pairs for ``ties="half"``; counts are ints, or floats for weighted pairs."""

    value: float
    concordant: float
    tied_prediction: float
    pairs: float


def mae(y: Any, prediction: Any) -> float:
    """Mean absolute error ``mean |y - prediction|``, in the unit of y.

    Args:
        y, prediction: ``[N]``.

    Raises:
        TypeError, ValueError: no rows, shapes that differ, NaN (how many, and the first).

    Example:
        >>> mae([1.0, 4.0], [2.0, 1.0])
        2.0
    """
    host_choice(_OPS["mae"])
    return reference.mae(*_two(y, prediction))


def rmse(y: Any, prediction: Any) -> float:
    """Root of the mean squared error ``sqrt(mean (y - prediction)^2)``, in the unit of y.

    Args, Raises: as `mae`.

    Example:
        >>> rmse([1.0, 4.0], [2.0, 11.0])
        5.0
    """
    host_choice(_OPS["rmse"])
    return reference.rmse(*_two(y, prediction))


def cumulative_score(y: Any, prediction: Any, theta: float) -> float:
    """CS@theta: the share of rows with ``|y - prediction| <= theta``.

    Args:
        y, prediction: ``[N]``; theta: at least 0, in the unit of y.

    Raises:
        TypeError, ValueError: as `mae`; a negative or NaN theta.

    Example:
        >>> cumulative_score([20, 30, 40], [22, 36, 40], theta=5)
        0.6666666666666666
    """
    host_choice(_OPS["cumulative_score"])
    if not theta >= 0:
        raise ValueError(f"theta: expected a number of at least 0, got {theta}")
    a, b = _two(y, prediction)
    return float((np.abs(a - b) <= theta).mean())


def lcc(y: Any, prediction: Any) -> float:
    """Pearson's linear correlation; NaN where either side is constant. Args, Raises: as `mae`.

    Example:
        >>> round(lcc([1, 2, 3], [2, 4, 6]), 12)
        1.0
    """
    host_choice(_OPS["lcc"])
    return reference.lcc(*_two(y, prediction))


def srcc(y: Any, prediction: Any) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; NaN where either side is constant. Args, Raises: as `mae`.

    Example:
        >>> round(srcc([1, 2, 3], [1, 10, 100]), 12)
        1.0
    """
    host_choice(_OPS["srcc"])
    return reference.srcc(*_two(y, prediction))


def xauc(
    y: Any, prediction: Any, *, ties: Literal["half", "strict", "reference"] = "half", weight: Any = None, group: Any = None
) -> XAUCResult:
    """The share of pairs that the prediction orders as y does, exactly, in O(n log n).

    Pairs with ``y_i == y_j`` do not count; a pair with equal predictions counts ``"half"``, or 0 (``"strict"``).
    ``ties="reference"``: stable sort by prediction, descending; the pairs whose earlier label is strictly greater, over all
    ``n (n - 1) / 2``. Its value depends on the order of rows with equal predictions.

    Args:
        y, prediction: ``[N]``.
        weight: ``[N]``, at least 0: a pair counts ``w_i w_j``.
        group: ``[N]`` integers: only pairs within a group count (all such pairs together; no mean over groups).

    Returns:
        ``XAUCResult(value, concordant, tied_prediction, pairs)``; the value is NaN if no pair counts.

    Raises:
        TypeError, ValueError: as `mae`; negative weights; weight or group with ``ties="reference"``.

    Source: FlowTime (arXiv:2606.01352), section 5.1, for ``"strict"``; the evaluation script of "Generative Regression Based Watch
    Time Prediction" for ``"reference"``; Knight, JASA 61 (1966), for the method.

    Example:
        >>> xauc([1.0, 2.0, 3.0], [0.1, 0.3, 0.3])
        XAUCResult(value=0.8333333333333334, concordant=2, tied_prediction=1, pairs=3)
    """
    host_choice(_OPS["xauc"])
    if ties not in ("half", "strict", "reference"):
        raise ValueError(f"ties: expected 'half', 'strict' or 'reference', got {ties!r}")
    a, b = _two(y, prediction, wide=False)
    if ties == "reference":
        if weight is not None or group is not None:
            raise ValueError(f"{'group' if weight is None else 'weight'}: expected None with ties='reference', got an array")
        label, at = (np.unique(x, return_inverse=True)[1].astype(np.int64) for x in (a, b))
        concordant = reference.inversions(label[np.argsort(-at, kind="stable")])
        pairs = len(a) * (len(a) - 1) // 2
        tied = reference.xauc_counts(a, b, None, None)[1]
        return XAUCResult(concordant / pairs if pairs else math.nan, concordant, tied, pairs)
    w = None if weight is None else _array("weight", weight, len(a)).astype(np.float64)
    if w is not None and (w < 0).any():
        raise ValueError(f"weight: expected numbers of at least 0, got {w[w < 0][0]} at index {int((w < 0).argmax())}")
    discordant, tied, all_pairs = reference.xauc_counts(a, b, w, None if group is None else _group(group, len(a)))
    concordant = all_pairs - tied - discordant
    ordered = concordant + (tied / 2 if ties == "half" else 0)
    return XAUCResult(ordered / all_pairs if all_pairs > 0 else math.nan, concordant, tied, all_pairs)


def auc(y: Any, prediction: Any, *, weight: Any = None) -> float:
    """Area under the ROC curve: of the pairs of a positive and a negative, the share where the positive scores higher (ties: half).

    Args:
        y: ``[N]``, 0 or 1, both there; prediction: ``[N]`` scores; weight: ``[N]``, at least 0.

    Raises:
        TypeError, ValueError: as `xauc`; labels that are not 0 and 1.

    Example:
        >>> auc([0, 1, 1], [0.2, 0.1, 0.9])
        0.5
    """
    host_choice(_OPS["auc"])
    a, b = _two(y, prediction)
    odd = (a != 0) & (a != 1)
    if odd.any():
        raise ValueError(f"y: expected labels 0 and 1, got {a[odd][0]} at index {int(odd.argmax())}")
    if a.min() == a.max():
        raise ValueError(f"y: expected both labels 0 and 1, got only {a[0]:g}")
    return xauc(a, b, weight=weight).value


def relaimpr(measured: float, base: float) -> float:
    """RelaImpr: ``(measured - 0.5) / (base - 0.5) - 1`` of two AUCs, as a fraction (0.02 is 2 %).

    Raises:
        ValueError: a base of 0.5, whose improvement has no scale.

    Example:
        >>> round(relaimpr(0.72, 0.70), 6)
        0.1
    """
    if base == 0.5:
        raise ValueError("base: expected an AUC other than 0.5, got 0.5")
    return (measured - 0.5) / (base - 0.5) - 1


def histogram_jsd(y: Any, prediction: Any, group: Any, *, edges: Any, base: float = math.e) -> float:
    """Mean over groups of the Jensen-Shannon divergence between the histograms of y and of prediction (PDF-U, PDF-I).

    ``JSD(p, q) = KL(p | m) / 2 + KL(q | m) / 2`` with ``m = (p + q) / 2``, between 0 and ``log(2) / log(base)``.

    Args:
        y, prediction: ``[N]``; group: ``[N]`` integers, any ids (users, items).
        edges: ``[M+1]``, rising: M bins, closed on the left; the first and the last are open, so no value is lost.
        base: of the logarithm, above 1.

    Raises:
        TypeError, ValueError: as `mae`; edges that do not rise (merge equal ones first), fewer than 2; a base up to 1.

    Source: FlowTime (arXiv:2606.01352), section 5.1; open end bins are ours.

    Example:
        >>> histogram_jsd([0, 1, 5], [0, 5, 1], [7, 7, 7], edges=[0, 2, 4])
        0.0
    """
    host_choice(_OPS["histogram_jsd"])
    a, b = _two(y, prediction)
    if not base > 1:
        raise ValueError(f"base: expected a number above 1, got {base}")
    e = _array("edges", edges, None, letters="M+1").astype(np.float64)
    if len(e) < 2:
        raise ValueError(f"edges: expected at least 2, got {len(e)}")
    flat = ~(e[1:] > e[:-1])
    if flat.any():
        i = int(flat.argmax()) + 1
        raise ValueError(f"edges: expected rising numbers, got {e[i]} at index {i} after {e[i - 1]}")
    return reference.histogram_jsd(a, b, _group(group, len(a)), e, base)


def crps(samples: Any, y: Any, *, fair: bool = False) -> Any:
    """Continuous ranked probability score of a sample: ``mean |s - y| - mean |s - s'| / 2``, O(L log L) per row.

    ``fair=True`` averages the second term over the ``L (L - 1)`` pairs of different draws, which makes the score of a finite
    sample unbiased for the distribution it comes from; else over all ``L^2``.

    Args:
        samples: ``[B, L]``, L at least 1 (2 if fair), in any order; y: ``[B]``. In the unit of y.

    Returns:
        ``[B]``: a tensor for tensors (with gradients; fp32 for 16-bit inputs), else a NumPy array.

    Raises:
        TypeError, ValueError: shapes that do not match; NaN. While gradients are taken NaN is not looked for (on a GPU that would
        wait for the device): it stays in its row.

    Source: Gneiting and Raftery, JASA 102 (2007), eq. 20-21; Ferro, QJRMS 140 (2014), for the fair form.

    Example:
        >>> crps([[0.0, 2.0]], [1.0])
        array([0.5])
    """
    host_choice(_OPS["crps"])
    s, t = _row_tensors(samples=samples, y=y)
    if s.dim() != 2 or s.shape[1] < (2 if fair else 1):
        raise ValueError(f"samples: expected [B, L] with L at least {2 if fair else 1}, got {list(s.shape)}")
    if t.shape != s.shape[:1]:
        raise ValueError(f"y: expected [B] = [{s.shape[0]}], got {list(t.shape)}")
    return _like(samples, reference.crps(s, t, fair))


def pinball(q: Any, y: Any, levels: Any) -> Any:
    """Quantile loss ``max(level (y - q), (level - 1) (y - q))``.

    Args:
        q: predicted quantiles ``[B, L]``; y: ``[B]``; levels: ``[L]`` in [0, 1].

    Returns:
        ``[B, L]``: a tensor for tensors (with gradients; fp32 for 16-bit inputs), else a NumPy array.

    Raises:
        TypeError, ValueError: shapes that do not match; levels outside [0, 1]; NaN, as for `crps`.

    Source: Koenker and Bassett, Econometrica 46 (1978).

    Example:
        >>> pinball([[1.0, 4.0]], [3.0], [0.5, 0.75])
        array([[1.  , 0.25]])
    """
    host_choice(_OPS["pinball"])
    p, t = _row_tensors(q=q, y=y)
    at = _array("levels", levels, None, letters="L").astype(np.float64)
    if ((at < 0) | (at > 1)).any():
        i = int(((at < 0) | (at > 1)).argmax())
        raise ValueError(f"levels: expected numbers in [0, 1], got {at[i]} at index {i}")
    if p.dim() != 2 or p.shape[1] != len(at):
        raise ValueError(f"q: expected [B, L] with L = {len(at)}, as levels, got {list(p.shape)}")
    if t.shape != p.shape[:1]:
        raise ValueError(f"y: expected [B] = [{p.shape[0]}], got {list(t.shape)}")
    return _like(q, reference.pinball(p, t, torch.from_numpy(at).to(p)))


def coverage(lower: Any, upper: Any, y: Any) -> tuple[float, float]:
    """The share of rows with ``lower <= y <= upper``, and the intervals' mean width.

    Args:
        lower, upper, y: ``[N]``.

    Raises:
        TypeError, ValueError: as `mae`; a lower end above its upper end.

    Example:
        >>> coverage([0, 0], [1, 3], [2, 3])
        (0.5, 2.0)
    """
    host_choice(_OPS["coverage"])
    a, b = _two(lower, upper, names=("lower", "upper"))
    t = _array("y", y, len(a)).astype(np.float64)
    crossed = a > b
    if crossed.any():
        i = int(crossed.argmax())
        raise ValueError(f"lower: expected at most upper, got {a[i]} above {b[i]} at index {i}")
    return float(((a <= t) & (t <= b)).mean()), float((b - a).mean())


# ----------------------------------------------------------------------------------------------------- checks


def _two(y: Any, prediction: Any, *, names: tuple[str, str] = ("y", "prediction"), wide: bool = True) -> Any:
    a = _array(names[0], y, None)
    if not len(a):
        raise ValueError(f"{names[0]}: expected at least one row, got none")
    b = _array(names[1], prediction, len(a), other=names[0])
    return (a.astype(np.float64), b.astype(np.float64)) if wide else (a, b)


def _array(name: str, x: Any, rows: int | None, *, other: str = "y", letters: str = "N") -> NDArray[Any]:
    """A numeric array of one dimension without NaN."""
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    try:
        a = np.asarray(x)
    except ValueError as error:  # ragged lists
        raise ValueError(f"{name}: expected shape [{letters}], got {type(x).__name__} ({error})") from None
    if a.ndim != 1:
        raise ValueError(f"{name}: expected shape [{letters}], got {list(a.shape)}")
    if a.dtype.kind not in "iufb":
        raise TypeError(f"{name}: expected numbers, got {a.dtype}")
    if rows is not None and len(a) != rows:
        raise ValueError(f"{name}: expected shape [N] = [{rows}], as {other}, got [{len(a)}]")
    bad = np.isnan(a) if a.dtype.kind == "f" else np.zeros(0, bool)
    if bad.any():
        raise ValueError(f"{name}: expected no NaN, got {bad.sum()} of {a.size}, the first at index {bad.argmax()}")
    return a


def _group(group: Any, rows: int) -> NDArray[np.int64]:
    a = _array("group", group, rows)
    if a.dtype.kind not in "iu":
        raise TypeError(f"group: expected integers, got {a.dtype}")
    return a


def _row_tensors(**named: Any) -> list[Tensor]:
    """The two arguments of a row-wise score as tensors of one floating dtype, fp32 or fp64, on one device."""
    tensors = []
    for name, x in named.items():
        try:
            t = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: expected an array of numbers, got {type(x).__name__} ({error})") from None
        if t.is_complex():
            raise TypeError(f"{name}: expected numbers, got {t.dtype}")
        tensors.append(t if t.is_floating_point() else t.double())
    (first, a), (second, b) = zip(named, tensors, strict=True)
    if isinstance(named[first], Tensor) and isinstance(named[second], Tensor) and a.device != b.device:
        raise ValueError(f"{second}: expected the device of {first}, {a.device}, got {b.device}")
    dtype = torch.promote_types(torch.promote_types(a.dtype, torch.float32), b.dtype)
    for name, t in ((first, a), (second, b)):
        if not torch.compiler.is_compiling() and not (a.requires_grad or b.requires_grad) and torch.isnan(t).any():
            rows = torch.isnan(t).reshape(t.shape[0], -1).any(1)
            raise ValueError(
                f"{name}: expected no NaN, got it in {int(rows.sum())} of {len(rows)} rows, the first at index {int(rows.int().argmax())}"
            )
    return [a.to(dtype), b.to(device=a.device, dtype=dtype)]


def _like(given: Any, out: Tensor) -> Any:
    return out if isinstance(given, Tensor) else out.numpy()

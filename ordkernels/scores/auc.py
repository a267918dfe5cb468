"""Area under the ROC curve."""

from typing import Any

from .._backend import compiled_host, register_host
from ._inputs import columns
from .xauc import xauc

__all__ = ["auc"]

register_host("auc")


def auc(y: Any, prediction: Any, *, weight: Any = None, num_threads: int | None = None) -> float:
    """Area under the ROC curve: of the pairs of a positive and a negative, the share where the positive scores higher (ties: half).

    Args:
        y: labels ``[N]``, 0 or 1, both present.
        prediction: ``[N]``, compared as they are.
        weight: ``[N]``, at least 0.
        num_threads: as for `xauc`.

    Raises:
        TypeError, ValueError: as `xauc`; labels that are not 0 and 1.

    Example:
        >>> auc([0, 1, 1], [0.2, 0.1, 0.9])
        0.5
    """
    compiled_host("auc")
    a, b = columns(y, prediction)
    other = (a != 0) & (a != 1)
    if other.any():
        raise ValueError(f"y: expected labels 0 and 1, got {float(a[other][0])} at index {int(other.argmax())}")
    if a.min() == a.max():
        raise ValueError(f"y: expected both labels 0 and 1, got only {a[0]:g}")
    return xauc(a, b, weight=weight, num_threads=num_threads).value

"""RelaImpr: the relative improvement of an AUC."""

from .._validation.numbers import number

__all__ = ["relaimpr"]


def relaimpr(measured: float, base: float) -> float:
    """RelaImpr: ``(measured - 0.5) / (base - 0.5) - 1`` of two AUCs, as a fraction (0.02 is 2 %).

    Args:
        measured: AUC of the model.
        base: AUC of the model to compare with.

    Raises:
        TypeError, ValueError: not numbers; a base of 0.5, whose improvement has no scale.

    Example:
        >>> round(relaimpr(0.72, 0.70), 6)
        0.1
    """
    m, b = number("measured", measured), number("base", base)  # an undefined AUC, NaN, has an undefined improvement
    if b == 0.5:
        raise ValueError("base: expected an AUC other than 0.5, got 0.5")
    return (m - 0.5) / (b - 0.5) - 1

"""Quantiles of every event's group without that event."""

import warnings
from typing import Any

from numpy.typing import ArrayLike

from .._backend import compiled_host, register_host
from .._validation import arrays
from .._validation.numbers import num_threads as _threads
from ..reference import leave_one_out_quantiles as reference
from ._inputs import as_offsets, as_values, restore

__all__ = ["leave_one_out_quantiles"]

register_host("leave_one_out_quantiles")


def leave_one_out_quantiles(values: ArrayLike, offsets: ArrayLike, levels: ArrayLike, *, num_threads: int | None = None) -> Any:
    """Quantiles of every event's group without that event.

    ``out[i, l]`` is level l of ``values[offsets[g]:offsets[g + 1]]`` without ``values[i]``, g the group of i.

    **No features for training:** within a group they move against the event's own value, which a flexible model reads off them, and then
    errs on new events: take `out_of_fold_quantiles`. They also see the future of an event: for data with times take
    `history_quantiles`. A call warns.

    Args:
        values, offsets, levels, num_threads: as for `segment_quantiles`.

    Returns:
        ``[N, L]`` in the unit of values; NaN where an event is alone in its group.

    Raises:
        TypeError, ValueError: as `segment_quantiles`.

    Source: ours, beside FlowTime (arXiv:2606.01352), for data without times.

    Example:
        >>> leave_one_out_quantiles([3.0, 1.0, 2.0, 7.0], [0, 3, 4], [0.5])
        array([[1.5],
               [2.5],
               [2. ],
               [nan]])
    """
    warnings.warn(
        "leave_one_out_quantiles: as training features these reveal the event's own value; use out_of_fold_quantiles, or history_quantiles "
        "where events have times",
        UserWarning,
        stacklevel=2,
    )
    kernels = compiled_host("leave_one_out_quantiles") or reference
    x = as_values(values)
    out = kernels.leave_one_out_quantiles(x, as_offsets(offsets, x.size), arrays.levels("levels", levels), _threads(num_threads))
    return restore(values, out)

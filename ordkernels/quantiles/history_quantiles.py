"""Quantiles of every event's past."""

from typing import Any

from numpy.typing import ArrayLike

from .._backend import compiled_host, register_host
from .._validation import arrays
from .._validation.numbers import integer
from .._validation.numbers import num_threads as _threads
from ..reference import history_quantiles as reference
from ._inputs import as_times, as_values, restore

__all__ = ["history_quantiles"]

register_host("history_quantiles")


def history_quantiles(
    values: ArrayLike,
    group: ArrayLike,
    time: ArrayLike,
    levels: ArrayLike,
    min_events: int = 1,
    *,
    num_threads: int | None = None,
) -> Any:
    """Quantiles of every event's past: the events of its group at strictly earlier times.

    ``out[i, l]`` is level l of ``{values[j]: group[j] == group[i], time[j] < time[i]}``; events of one time see neither
    each other nor themselves. O(N (log N + L)).

    Args:
        values: ``[N]``, in any order, as for `segment_quantiles`.
        group: ``[N]`` integers: any ids.
        time: ``[N]`` integers, floats or datetime64; only their order counts. Infinities are times like any other.
        levels: ``[L]`` in [0, 1], in any order.
        min_events: at least 1; an event with a shorter past gets NaN.
        num_threads: as for `segment_quantiles`.

    Returns:
        ``[N, L]`` in the order of values, and in their unit. Workspace: up to 16 bytes an event (40 if the ids are spread
        over a range much wider than N), and for each thread about 50 bytes an event of its longest group (130 beyond 2048).

    Raises:
        TypeError: dtypes that are not numbers, or not integers for group and min_events.
        ValueError: wrong shapes, levels outside [0, 1], min_events below 1, NaN among the values or times.

    Source: FlowTime (arXiv:2606.01352), the pattern encoding; that a label is never in its own history is ours.

    Example:
        >>> history_quantiles([4.0, 8.0, 6.0, 1.0], [5, 5, 5, 9], [1, 3, 2, 1], [0.0, 0.5])
        array([[nan, nan],
               [ 4.,  5.],
               [ 4.,  4.],
               [nan, nan]])
    """
    kernels = compiled_host("history_quantiles") or reference
    x = as_values(values)
    g, t = arrays.integers("group", group, length=x.size, other="values"), as_times(time, x.size)
    # A past is never longer than N: a larger minimum means the same, and fits any integer of the kernel's.
    least = min(integer("min_events", min_events, least=1), x.size + 1)
    return restore(values, kernels.history_quantiles(x, g, t, arrays.levels("levels", levels), least, _threads(num_threads)))

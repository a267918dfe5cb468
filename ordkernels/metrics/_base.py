"""What the metrics share: a base, states that are an accumulator's arrays, and states that are all rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from .._validation import arrays
from ..scores.streaming import Accumulator

_ROW_DTYPES = (torch.float32, torch.float64, torch.int64)  # codes 1, 2, 3 between processes; code 0 is "no rows"


class ScoreMetric(Metric):
    """Base of all metrics."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    def _scalar(self, x: float) -> Tensor:
        return torch.tensor(x, dtype=torch.float64, device=self.device)


class AccumulatorMetric(ScoreMetric):
    """States are arrays of an accumulator of `ordkernels.scores.streaming`, added over processes.

    Args:
        make: makes an empty accumulator.
        states: the accumulator's field -> the name of the state.
        config: the settings of the accumulator, as a state too: a `MetricCollection` shares states between metrics whose states
            are equal.
    """

    def __init__(self, make: Callable[[], Accumulator], states: dict[str, str], config: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._make, self._states = make, states
        empty = make().state()
        for field, name in states.items():
            self.add_state(name, torch.as_tensor(empty[field]), dist_reduce_fx="sum")
        if config is not None:
            self.add_state("config", torch.as_tensor(config, dtype=torch.float64), dist_reduce_fx="max")

    def _accumulator(self) -> Any:
        accumulator = self._make()
        state = {field: getattr(self, name).cpu().numpy() for field, name in self._states.items()}
        return accumulator.load_state({**accumulator.state(), **state})

    def _accumulate(self, *columns: Any) -> None:
        state = self._accumulator().update(*columns).state()
        for field, name in self._states.items():
            setattr(self, name, torch.as_tensor(state[field], device=self.device))


class RowsMetric(ScoreMetric):
    """States are the rows: lists of tensors, joined over processes, of which some may have seen no row."""

    higher_is_better = True
    _columns: tuple[str, ...] = ("prediction", "y")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in self._columns:
            self.add_state(f"{name}_rows", [], dist_reduce_fx="cat")

    def _append(self, **columns: Any) -> None:
        n, checked = None, {}
        for name, x in columns.items():
            if isinstance(x, Tensor) and x.device.type not in ("cpu", "meta"):
                t = x.detach()  # its values are checked by compute, without a sync here
                if t.dim() != 1 or (n is not None and len(t) != n):
                    raise ValueError(f"{name}: expected shape [N]{'' if n is None else f' = [{n}], as prediction'}, got {list(t.shape)}")
                if name == "group" and (t.is_floating_point() or t.is_complex() or t.dtype == torch.bool):
                    raise TypeError(f"group: expected integers, got {t.dtype}")
            else:
                check = arrays.integers if name == "group" else arrays.numbers
                t = arrays.as_tensor(name, check(name, x, length=n, other="prediction"))
            n = len(t)
            if t.dtype not in _ROW_DTYPES:
                t = t.to(torch.float32) if t.is_floating_point() else _as_int64(name, t)
            checked[name] = t.to(self.device, copy=True)  # the caller may write into its own
        for name, t in checked.items():
            getattr(self, f"{name}_rows").append(t)

    def _rows(self, name: str) -> Any:
        """All rows of a column, in a tensor or, where no dtype of torch holds them, an array of long doubles; None if there are none."""
        rows = getattr(self, f"{name}_rows", [])
        if isinstance(rows, list):
            if any(_is_rounded(t, _common_dtype({t.dtype for t in rows})) for t in rows):
                return np.concatenate([t.cpu().numpy().astype(np.longdouble) for t in rows])
            rows = _joined(name, rows)
        return rows if rows is not None and len(rows) else None

    def _prediction_and_y(self) -> list[Any]:
        rows = [self._rows(name) for name in ("prediction", "y")]
        return [torch.empty(0) if t is None else t for t in rows]

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None) -> None:
        """Agree on dtypes first: a process without rows, or with rows of another dtype, would send what others misread."""
        parts = [getattr(self, f"{name}_rows") for name in self._columns]
        joined = [_joined(name, rows) for name, rows in zip(self._columns, parts, strict=True)]
        codes = torch.tensor([0 if t is None else 1 + _ROW_DTYPES.index(t.dtype) for t in joined], device=self.device)
        codes_of_all = torch.stack(dist_sync_fn(codes, group=process_group or self.process_group))
        for name, t, found in zip(self._columns, joined, codes_of_all.T.tolist(), strict=True):
            dtype = _common_dtype({_ROW_DTYPES[code - 1] for code in found if code})
            own = torch.empty(0, dtype=dtype, device=self.device) if t is None else _in_dtype(name, t, dtype)
            setattr(self, f"{name}_rows", [own])
        super()._sync_dist(dist_sync_fn, process_group)


def _common_dtype(dtypes: set[torch.dtype]) -> torch.dtype:
    """One that no value of these is rounded to, if any: torch's own promotion takes whole numbers beside float32 for float32."""
    if dtypes <= {torch.int64}:
        return torch.int64
    return torch.float32 if dtypes == {torch.float32} else torch.float64


def _joined(name: str, rows: list[Tensor]) -> Tensor | None:
    if not rows:
        return None
    dtype = _common_dtype({t.dtype for t in rows})
    return torch.cat([_in_dtype(name, t, dtype) for t in rows])


def _in_dtype(name: str, t: Tensor, dtype: torch.dtype) -> Tensor:
    """t in a common dtype; whole numbers that it would round are refused."""
    if _is_rounded(t, dtype):
        raise ValueError(f"{name}: expected whole numbers up to 2^53 beside floats of another update, got beyond")
    return t.to(dtype)


def _is_rounded(t: Tensor, dtype: torch.dtype) -> bool:
    return t.dtype == torch.int64 and dtype == torch.float64 and bool(((t > 2**53) | (t < -(2**53))).any())


def _as_int64(name: str, t: Tensor) -> Tensor:
    if t.dtype == torch.uint64 and bool((t.view(torch.int64) < 0).any()):
        raise ValueError(f"{name}: expected whole numbers below 2^63, got {int(t.cpu().numpy().max())}")
    return t.to(torch.int64)

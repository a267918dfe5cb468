"""What the metrics share: states that are an accumulator's arrays, and states that are all rows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from ..scores import _array
from ..scores_stream import _Stream

_KINDS = (torch.float32, torch.float64, torch.int64)  # of rows kept: code 1, 2, 3; code 0 is "no rows here"


class Streamed(Metric):
    """States are some arrays of an accumulator of `ordkernels.scores_stream`, added over processes.

    `config` holds what the accumulator was made with: a `MetricCollection` shares states between metrics whose states are equal.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    def __init__(self, make: Callable[[], _Stream], states: dict[str, str], config: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._make, self._states = make, states
        fresh = make()
        for field, name in states.items():
            self.add_state(name, torch.as_tensor(fresh.state()[field]), dist_reduce_fx="sum")
        if config is not None:
            self.add_state("config", torch.as_tensor(config, dtype=torch.float64), dist_reduce_fx="max")

    def _accumulator(self) -> _Stream:
        it = self._make()
        state = {field: getattr(self, name).cpu().numpy() for field, name in self._states.items()}
        return it.load_state({**it.state(), **state})

    def _take(self, *columns: Any) -> None:
        it = self._accumulator()
        # NumPy has no bfloat16
        it.update(*(x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x for x in columns))  # type: ignore[attr-defined]
        state = it.state()
        for field, name in self._states.items():
            setattr(self, name, torch.as_tensor(state[field], device=self.device))


class Rows(Metric):
    """States are the rows: lists of tensors, joined over processes, of which some may have seen no row."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    _columns: tuple[str, ...] = ("prediction", "y")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in self._columns:
            self.add_state(f"{name}_rows", [], dist_reduce_fx="cat")

    def _keep(self, **columns: Any) -> None:
        n = None
        kept = {}
        for name, x in columns.items():
            t = x.detach() if isinstance(x, Tensor) else torch.as_tensor(_array(name, x, None))
            if t.device.type == "cpu":
                _array(name, t, n, other="prediction")  # on a GPU these checks wait for compute
            elif t.dim() != 1 or (n is not None and len(t) != n):
                raise ValueError(f"{name}: expected shape [N]{'' if n is None else f' = [{n}], as prediction'}, got {list(t.shape)}")
            n = len(t)
            if t.dtype not in _KINDS:
                t = t.to(torch.float32 if t.is_floating_point() else torch.int64)
            kept[name] = t.to(self.device, copy=True)  # the caller may write into its own
        for name, t in kept.items():
            getattr(self, f"{name}_rows").append(t)

    def _rows(self, name: str) -> Tensor | None:
        """All rows of a column; None if there are none."""
        rows = getattr(self, f"{name}_rows", [])
        if isinstance(rows, list):
            rows = torch.cat(rows) if rows else None
        return rows if rows is not None and len(rows) else None

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None) -> None:
        """Agree on dtypes first: a process without rows, or with rows of another dtype, would send what others misread."""
        parts = [getattr(self, f"{name}_rows") for name in self._columns]
        joined = [torch.cat(rows) if rows else None for rows in parts]
        codes = torch.tensor([0 if t is None else 1 + _KINDS.index(t.dtype) for t in joined], device=self.device)
        everyone = torch.stack(dist_sync_fn(codes, group=process_group or self.process_group))
        for name, t, seen in zip(self._columns, joined, everyone.T.tolist(), strict=True):
            dtype = torch.int64 if set(seen) <= {0, 3} else torch.float32 if set(seen) <= {0, 1} else torch.float64
            setattr(self, f"{name}_rows", [torch.empty(0, dtype=dtype, device=self.device) if t is None else t.to(dtype)])
        super()._sync_dist(dist_sync_fn, process_group)


def scalar(x: float, device: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64, device=device)
